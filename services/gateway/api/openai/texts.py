"""What ``prompt`` and ``input`` may be: texts, or the ids of their tokens."""

from collections.abc import Sized
from typing import Annotated, Any, Final, TypeVar

import msgspec

from libs.common.errors import InvalidRequest
from services.gateway.api.ollama.generate import LONGEST_CONTEXT
from services.gateway.api.ollama.options import LARGEST_INT32

T = TypeVar("T", bound=Sized)
Tokens = tuple[int, ...]
_Ids = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INT32)], ...],
    msgspec.Meta(min_length=1),
]
"""Checked without a loop in Python: there may be a million of them, on the event loop."""

MOST_TOKEN_ARRAYS: Final = 64


def read_texts(value: Any, name: str, most: int) -> list[str] | list[Tokens]:
    """At least one, of one kind. Raises ``InvalidRequest``: ``most`` is how many texts it may be."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return _at_most(most, value, name)
        if all(isinstance(item, list) for item in value):
            _at_most(MOST_TOKEN_ARRAYS, value, name)
            _at_most(LONGEST_CONTEXT, range(sum(map(len, value))), name)
            return [_tokens(item, name) for item in value]
        return [_tokens(_at_most(LONGEST_CONTEXT, value, name), name)]
    raise _invalid(name)


def _tokens(value: list[Any], name: str) -> Tokens:
    try:
        return msgspec.convert(value, _Ids)
    except msgspec.ValidationError:
        raise _invalid(name) from None


def _at_most(most: int, items: T, name: str) -> T:
    if len(items) > most:
        raise InvalidRequest(f"{name} must not have more than {most} items", param=name)
    return items


def _invalid(name: str) -> InvalidRequest:
    return InvalidRequest(f"invalid {name}: expected a text, the ids of its tokens, or a list of either", param=name)
