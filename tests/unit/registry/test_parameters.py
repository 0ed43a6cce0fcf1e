from typing import Any

import pytest

from libs.common.errors import InvalidRequest
from services.registry.parameters import MOST_PARAMETERS, merged


def test_what_is_given_comes_first() -> None:
    base = {"temperature": 0.5, "stop": ["<a>"], "mystery": [1]}
    given = {"num_ctx": 128.0, "stop": "<b>", "temperature": None, "use_mmap": False}
    assert merged(base, given) == {
        "temperature": 0.5,
        "stop": ["<b>"],
        "mystery": [1],
        "num_ctx": 128,
        "use_mmap": False,
    }


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        *((name, value, "integer") for name in ("num_ctx", "seed", "num_gpu") for value in ("1", True, 1e30, [1])),
        ("temperature", "hot", "float32"),
        ("use_mmap", 1, "boolean"),
        ("stop", 1, "array"),
    ],
)
def test_a_wrong_type(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(InvalidRequest, match=f'^option "{name}" must be of type {wanted}$'):
        merged({}, {name: value})


def test_a_list_of_something_else() -> None:
    with pytest.raises(InvalidRequest, match=r'^option "stop" must be of an array of strings$'):
        merged({}, {"stop": ["<a>", 1]})


def test_there_is_a_limit() -> None:
    with pytest.raises(InvalidRequest, match="too many"):
        merged({}, {f"x{number}": 1 for number in range(MOST_PARAMETERS + 1)})
