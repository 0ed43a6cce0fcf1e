"""What a path and its query ask for."""

from collections.abc import Collection, Mapping

from starlette.datastructures import QueryParams
from starlette.types import Scope

from libs.common.errors import InvalidRequest, NotFound


def read_query(scope: Scope, known: Collection[str]) -> Mapping[str, str]:
    """Raises ``InvalidRequest`` for others, which would be a filter that does nothing."""
    query = QueryParams(scope["query_string"].decode("latin-1"))
    for name, value in query.items():
        if name not in known:
            raise InvalidRequest(f"'{name[:50]}' is not supported here")
        if "\0" in value:
            raise InvalidRequest(f"'{name}' must not have a zero byte")
    return query


def read_id(text: str) -> str:
    """Raises ``NotFound`` for what no id can be."""
    if "\0" in text:
        raise NotFound("there is nothing of this id")
    return text


def read_limit(query: Mapping[str, str], default: int, most: int) -> int:
    text = query.get("limit", str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidRequest(f"'limit' must be a number from 1 to {most}")
    return int(text)
