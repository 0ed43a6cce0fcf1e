"""Forms with files, as they come: nothing of a file is kept here."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from libs.common.errors import InvalidRequest
from services.gateway.api.connection import in_time

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MOST_PARTS: Final = 20


@dataclass(frozen=True)
class Part:
    """A part begins; its data follows. ``filename``: None for a plain field."""

    name: str
    filename: str | None


@dataclass
class _Events:
    """The parser's callbacks, as a list of what happened."""

    happened: list[Part | bytes] = field(default_factory=list)
    parts: int = 0
    complete: bool = False
    _header: bytes = b""
    _value: bytes = b""
    _disposition: bytes = b""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self.on_part_begin,
            "on_header_field": self.on_header_field,
            "on_header_value": self.on_header_value,
            "on_header_end": self.on_header_end,
            "on_headers_finished": self.on_headers_finished,
            "on_part_data": self.on_part_data,
            "on_end": self.on_end,
        }

    def on_part_begin(self) -> None:
        self.parts += 1
        if self.parts > MOST_PARTS:
            raise InvalidRequest(f"a form must not have more than {MOST_PARTS} parts")
        self._disposition = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        filename = options.get(b"filename")
        self.happened.append(
            Part(
                name=options.get(b"name", b"").decode(errors="replace"),
                filename=None if filename is None else filename.decode(errors="replace"),
            )
        )

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.happened.append(data[start:end])

    def on_end(self) -> None:
        self.complete = True


async def read_form(chunks: AsyncIterator[bytes], content_type: str) -> AsyncGenerator[Part | bytes]:
    """Each part, followed by its data in pieces. Raises ``InvalidRequest``, and ``Unavailable`` if it stops coming."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest("the body must be multipart/form-data")
    events = _Events()
    try:
        parser = MultipartParser(options[b"boundary"], events.callbacks())
        async for chunk in _in_time(chunks):
            parser.write(chunk)
            for event in events.happened:
                yield event
            events.happened.clear()
    except FormParserError:
        raise InvalidRequest("the form is not well formed") from None
    if not events.complete:
        raise InvalidRequest("the form ends too early")


async def _in_time(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        while True:
            yield await in_time(anext(chunks))
    except StopAsyncIteration:
        return
