"""Compressed request bodies, opened as they come: a few bytes may stand for gigabytes."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import zstandard

from libs.common.errors import InvalidRequest, TooLarge, UnsupportedEncoding

MOST_FRAMES: Final = 1000
"""Of one body: an empty one costs time too."""

LARGEST_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""What RFC 8878 asks of every decoder of zstd; it is held while a body is read."""


class _Frame(Protocol):
    """A part of a body that is complete in itself."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes:
        """What came after its end."""

    def decompress(self, data: bytes, /) -> bytes: ...


def _gzip_frame() -> _Frame:
    return zlib.decompressobj(wbits=31)


def _zstd_frame() -> _Frame:
    return zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW_BYTES).decompressobj()


@dataclass(frozen=True)
class _Encoding:
    name: str
    frame: Callable[[], _Frame]
    step: int
    """So many bytes at once make 4 MiB at most: gzip's grow up to a thousandfold, four of zstd's to 128 KiB."""


_GZIP: Final = _Encoding("gzip", _gzip_frame, 4096)
_ENCODINGS: Final = {"gzip": _GZIP, "x-gzip": _GZIP, "zstd": _Encoding("zstd", _zstd_frame, 128)}


class Decompressor:
    """One body. Blocking: for a thread."""

    def __init__(self, encoding: _Encoding, limit: int) -> None:
        self._encoding = encoding
        self._room = limit
        self._frames = 0
        self._frame: _Frame | None = None

    def feed(self, piece: bytes) -> bytes:
        """What is in it. Raises ``TooLarge`` as soon as all pieces hold more than ``limit``, and ``InvalidRequest``."""
        opened, step = [], self._encoding.step
        for start in range(0, len(piece), step):
            opened.append(self._open(piece[start : start + step]))
            self._room -= len(opened[-1])
            if self._room < 0:
                raise TooLarge
        return b"".join(opened)

    def check_end(self) -> None:
        """Raises ``InvalidRequest`` if there should be more."""
        if self._frame is not None and not self._frame.eof:
            raise InvalidRequest(f"the {self._encoding.name} data of the body ends too early")

    def _open(self, data: bytes) -> bytes:
        opened = []
        while data:
            if self._frame is None or self._frame.eof:
                self._frame = self._next_frame()
            try:
                opened.append(self._frame.decompress(data))
            except (zlib.error, zstandard.ZstdError):
                raise InvalidRequest(f"the body is no {self._encoding.name} data that can be read here") from None
            data = self._frame.unused_data
        return b"".join(opened)

    def _next_frame(self) -> _Frame:
        self._frames += 1
        if self._frames > MOST_FRAMES:
            raise InvalidRequest(f"the body has more than {MOST_FRAMES} {self._encoding.name} frames")
        return self._encoding.frame()


def decompressor(content_encoding: str, limit: int) -> Decompressor | None:
    """None for a body that is not compressed. Raises ``UnsupportedEncoding``."""
    name = content_encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in _ENCODINGS:
        raise UnsupportedEncoding
    return Decompressor(_ENCODINGS[name], limit)


def check_plain(content_encoding: str) -> None:
    """For bodies that are kept as they are. Raises ``UnsupportedEncoding``."""
    if content_encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedEncoding("this body must not be compressed")
