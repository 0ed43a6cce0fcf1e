"""The input of a batch: a form and its lines, in pieces of any size."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidRequest, TooLarge
from services.gateway.api.openai.multipart import MOST_PARTS, Part, read_form
from services.gateway.batches import validation
from services.gateway.batches.batches import ENDPOINTS
from services.gateway.batches.lines import ENDPOINTS as DOORS
from services.gateway.batches.validation import LONGEST_LINE, MOST_ERRORS, Validation
from services.gateway.store.batch_lines import ClaimedLine

FORM = "multipart/form-data; boundary=b"
CHAT = "/v1/chat/completions"


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def a_form(*parts: tuple[str, str | None, bytes]) -> bytes:
    shown = b""
    for name, filename, data in parts:
        file = "" if filename is None else f'; filename="{filename}"'
        shown += f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"
    return shown + b"--b--\r\n"


async def read(body: bytes, size: int, content_type: str = FORM) -> list[tuple[Part, bytes]]:
    found: list[tuple[Part, bytes]] = []
    async for event in read_form(pieces(body, size), content_type):
        if isinstance(event, Part):
            found.append((event, b""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + event)
    return found


@given(content=st.binary(max_size=300), size=st.integers(1, 80))
def test_a_form_is_the_same_however_it_is_cut(content: bytes, size: int) -> None:
    content = content.replace(b"--b", b"")
    body = a_form(("purpose", None, b"batch"), ("file", "in.jsonl", content))
    assert asyncio.run(read(body, size)) == [
        (Part("purpose", None), b"batch"),
        (Part("file", "in.jsonl"), content),
    ]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (a_form(("a", None, b"x"))[:-8], FORM),
        (b"nonsense", FORM),
        (b"", FORM),
        (a_form(("a", None, b"x")), "application/json"),
        (a_form(("a", None, b"x")), "multipart/form-data"),
        (a_form(*[("a", None, b"x")] * (MOST_PARTS + 1)), FORM),
        (b"--b\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n--b--\r\n", FORM),
    ],
)
async def test_what_is_no_form(body: bytes, content_type: str) -> None:
    with pytest.raises(InvalidRequest):
        await read(body, 1000, content_type)


@given(
    lines=st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), min_size=1),
    size=st.integers(1, 50),
)
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], size: int) -> None:
    data, checked = b"\n".join(lines), Validation(CHAT)
    with patch.object(Validation, "hopeless", False):
        found = [line for start in range(0, len(data), size) for line in checked.read(data[start : start + size])]
        found += checked.read_last()
    assert found == [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def test_a_line_that_never_ends_is_not_gathered() -> None:
    checked = Validation(CHAT)
    checked.read(b"x" * LONGEST_LINE)
    with pytest.raises(TooLarge):
        checked.read(b"x")


def a_line(**changed: Any) -> bytes:
    return json.dumps({"custom_id": uuid4().hex, "method": "POST", "url": CHAT, "body": {}, **changed}).encode()


def errors_of(*lines: bytes) -> list[tuple[int | None, str, str | None]]:
    checked = Validation(CHAT)
    checked.read(b"\n".join(lines))
    checked.read_last()
    return [(error["line"], error["code"], error["param"]) for error in checked.errors]


def test_good_lines() -> None:
    assert errors_of(a_line(), a_line(body={"model": "m"}), a_line(more="is fine")) == []


def test_bad_lines() -> None:
    twice = a_line(custom_id="a")
    assert errors_of(twice, twice, b"{", b"[]", b"\xff") == [
        (2, "duplicate_custom_id", "custom_id"),
        (3, "invalid_json_line", None),
        (4, "invalid_json_line", None),
        (5, "invalid_json_line", None),
    ]
    assert errors_of(
        a_line(custom_id=None),
        a_line(custom_id=7),
        a_line(custom_id="x" * 600),
        a_line(method="GET"),
        a_line(url="/x"),
        a_line(body=None),
    ) == [
        (1, "missing_required_parameter", "custom_id"),
        (2, "missing_required_parameter", "custom_id"),
        (3, "invalid_value", "custom_id"),
        (4, "invalid_method", "method"),
        (5, "mismatched_endpoint", "url"),
        (6, "missing_required_parameter", "body"),
    ]


def test_errors_are_bounded_and_so_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = Validation(CHAT)
    for _ in range(MOST_ERRORS):
        assert not checked.hopeless
        checked.read(b"{\n")
    assert checked.hopeless
    monkeypatch.setattr(validation, "MOST_LINES", 2)
    assert errors_of(a_line(), a_line(), a_line()) == [(None, "too_many_requests", None)]


def test_every_endpoint_has_a_door() -> None:
    assert set(DOORS) == set(ENDPOINTS)


def test_a_line_is_the_same_request_for_every_gateway_until_it_is_tried_anew() -> None:
    def line(**changed: Any) -> ClaimedLine:
        return ClaimedLine(**{"batch_id": "b", "number": 1, "sealed": b"", "tries": 0, "losses": 0,
                              "organization_id": "o", "user_id": "u", "key_id": None, "endpoint": CHAT,
                              **changed})  # fmt: skip

    ids = {line(**changed).request_id for changed in ({}, {}, {"tries": 1}, {"number": 2}, {"batch_id": "c"})}
    assert len(ids) == 4
    assert all(len(each) == 32 for each in ids)
