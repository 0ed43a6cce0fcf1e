"""Request bodies as Go's ``encoding/json`` reads them, whatever the Content-Type says.

Keys match in any case, the last duplicate wins, null is unset, unknown keys and bytes after the value are ignored.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import islice
from typing import Any, NoReturn

import orjson
from starlette.types import Receive

from libs.common.errors import InvalidRequest, RequestCancelled, TooLarge
from services.gateway.api.compression import decompressor
from services.gateway.api.connection import in_time

PARSE_IN_THREAD_BYTES = 256 * 1024
LONG_BODY_BYTES = 1024 * 1024
LARGEST_INT = 2**63 - 1
MOST_OBJECTS = 10_000
DEEPEST_DATA = 100
"""Levels of a value that is passed on unread. Parsers behind the gateway refuse from 128 on."""
MOST_DATA = 100_000
"""Values within such a value: they are looked at on the event loop."""


class MissingBody(InvalidRequest):
    """missing request body"""


async def read_body(
    receive: Receive,
    headers: Mapping[str, str],
    limit: int,
    while_long: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> bytes:
    """The whole body, opened if it is compressed. ``while_long``: entered after ``LONG_BODY_BYTES``, until all came.

    Raises ``TooLarge`` as soon as it is known to exceed ``limit`` bytes, ``Unavailable`` if it stops coming, and for a
    compressed one ``InvalidRequest`` and ``UnsupportedEncoding``.
    """
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge
    compressed = decompressor(headers.get("content-encoding", ""), limit)
    pieces, size = [], 0
    message = await receive()  # without a timer: it is mostly there, and all of it
    with ExitStack() as until_read:
        while True:
            if message["type"] == "http.disconnect":
                raise RequestCancelled
            piece = message.get("body", b"")
            before, size = size, size + len(piece)
            if size > limit:
                raise TooLarge
            pieces.append(piece if compressed is None else await asyncio.to_thread(compressed.feed, piece))
            if not message.get("more_body", False):
                break
            if before <= LONG_BODY_BYTES < size:
                until_read.enter_context(while_long())
            message = await in_time(receive())
    if compressed is not None:
        compressed.check_end()
    return b"".join(pieces)


async def parse_json(body: bytes) -> Any:
    """The first JSON value of the body. Raises ``InvalidRequest``."""
    if len(body) > PARSE_IN_THREAD_BYTES:
        return await asyncio.to_thread(decode, body)
    return decode(body)


def decode(body: bytes) -> Any:
    """Raises ``InvalidRequest`` for what Go refuses, for broken UTF-8 and for numbers no float can hold."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return _decode_leniently(body)


def _decode_leniently(body: bytes) -> Any:
    """What orjson refuses and Go does not: bytes after the value, escapes of half a surrogate pair."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("invalid UTF-8 in request body") from None
    text = text.lstrip(" \t\r\n")
    if not text:
        raise MissingBody
    try:
        value, _end = _decoder.raw_decode(text)
        # Half surrogate pairs become U+FFFD, as in Go; orjson then checks the depth and the size of the numbers.
        utf16 = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
        return orjson.loads(utf16.decode("utf-16-le", "replace"))
    except (orjson.JSONDecodeError, RecursionError):
        raise InvalidRequest("invalid JSON: nested too deeply, or a number out of range") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(_go_message(text, error.pos)) from None
    except ValueError:
        raise InvalidRequest("invalid JSON: number out of range") from None


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"invalid character '{name[0]}' looking for beginning of value")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def _go_message(text: str, position: int) -> str:
    if position >= len(text):
        return "unexpected EOF"
    return f"invalid character {json.dumps(text[position])} in JSON at position {position}"


class Fields:
    """One JSON object read as Go fills a struct. Go's names are for the messages alone.

    Each accessor gives the default for an absent key or null, and raises ``InvalidRequest`` for a wrong type.
    """

    def __init__(self, value: Any, struct: str, within: str = "") -> None:
        """``within``: for an object inside the body, the body's struct and the path to it."""
        if value is None:
            value = {}
        if not isinstance(value, dict):
            target = f"Go struct field {within}" if within else "Go value"
            raise InvalidRequest(
                f"json: cannot unmarshal {_kind(value)} into {target} of type api.{struct}",
                param=_path(within) if within else None,
            )
        self._values = {key.lower(): item for key, item in value.items() if item is not None}
        self._where = within or struct

    def raw(self, name: str) -> Any:
        """Any JSON value, or None."""
        return self._values.get(name)

    def text(self, name: str) -> str:
        value = self._values.get(name, "")
        return value if isinstance(value, str) else self._refuse(name, value, "string")

    def flag(self, name: str, default: bool) -> bool:
        value = self._values.get(name, default)
        return value if isinstance(value, bool) else self._refuse(name, value, "bool")

    def integer(self, name: str) -> int | None:
        value = self._values.get(name)
        return None if value is None else self._integer(name, value)

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(self._integer(name, item) for item in self.items(name, "[]int"))

    def items(self, name: str, go_type: str) -> list[Any]:
        value = self._values.get(name)
        if value is None:
            return []
        return value if isinstance(value, list) else self._refuse(name, value, go_type)

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(
            item if isinstance(item, str) else self._refuse(name, item, "string")
            for item in self.items(name, "[]string")
        )

    def objects(self, name: str, struct: str, *, most: int = MOST_OBJECTS) -> list["Fields"]:
        items, where = self.items(name, f"[]api.{struct}"), f"{self._where}.{name}"
        if len(items) > most:
            raise InvalidRequest(f"{where} must not have more than {most} items", param=_path(where))
        return [Fields(item, struct, where) for item in items]

    def object(self, name: str, struct: str) -> "Fields":
        return Fields(self._values.get(name), struct, f"{self._where}.{name}")

    def mapping(self, name: str) -> dict[str, Any]:
        """An object whose keys are data: kept as they are."""
        value = self._values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            return self._refuse(name, value, "map[string]interface {}")
        for _node in nodes_of(value, name):
            pass
        return value

    def texts_by_key(self, name: str) -> dict[str, str]:
        """An object whose keys are data and whose values are text; null is none."""
        items = self.mapping(name).items()
        return {
            key: item if isinstance(item, str) else self._refuse(name, item, "string")
            for key, item in items
            if item is not None
        }

    def _integer(self, name: str, value: Any) -> int:
        if type(value) is int and -LARGEST_INT - 1 <= value <= LARGEST_INT:
            return value
        return self._refuse(name, value, "int")

    def _refuse(self, name: str, value: Any, go_type: str) -> NoReturn:
        where = f"{self._where}.{name}"
        raise InvalidRequest(
            f"json: cannot unmarshal {_kind(value)} into Go struct field {where} of type {go_type}", param=_path(where)
        )


def _path(where: str) -> str:
    """From the body on, without the struct's name."""
    return where.partition(".")[2]


def nodes_of(value: Any, name: str) -> Iterator[Any]:
    """A value and all that is in it. Raises ``InvalidRequest`` beyond ``DEEPEST_DATA`` and ``MOST_DATA``."""
    level, left = [value], MOST_DATA
    for _ in range(DEEPEST_DATA):
        yield from level
        left -= len(level)
        level = list(islice((child for node in level for child in _children(node)), left + 1))
        if not level:
            return
        if len(level) > left:
            raise InvalidRequest(f"invalid {name}: more than {MOST_DATA} values")
    raise InvalidRequest(f"invalid {name}: nested more than {DEEPEST_DATA} levels deep")


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return f"number {value}"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
