"""Cursors that somebody else wrote."""

import base64
import json
from typing import Any

import pytest

from libs.common import paging
from libs.common.errors import InvalidRequest


def test_a_cursor_comes_back_as_it_went() -> None:
    assert paging.decode(paging.encode("model", "team/ä:8b"), str, str) == ("model", "team/ä:8b")


@pytest.mark.parametrize(
    "key", [["a"], ["a", 1], ["a", "\0"], ["a", "\ud800"], ["a", "b", "c"], {"a": "b"}, "ab", None]
)
def test_what_is_no_cursor_of_ours(key: Any) -> None:
    with pytest.raises(InvalidRequest):
        paging.decode(base64.urlsafe_b64encode(json.dumps(key).encode()).decode(), str, str)
