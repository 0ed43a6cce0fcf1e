"""The header of a GGUF file: its keys and its tensors.

Files come from strangers, and a few bytes can promise 2^64 items. So what is read is bounded, in bytes and in items,
and nothing is believed that the file is too short for. Raises ``ValueError`` wherever a file is wrong.
"""

import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

LARGEST_HEADER_BYTES: Final = 128 << 20
"""A vocabulary of half a million tokens takes 20 MB."""

MOST_ITEMS: Final = 4_000_000
"""In all arrays, and keys and tensors."""

SHORT_ARRAY: Final = 1024
"""Numbers up to this many are kept: there may be one for each layer."""

MOST_TEXT_BYTES: Final = 4 << 20
"""In all values that are texts: they are kept in the model's row."""

MOST_DIMENSIONS: Final = 4
VERSIONS: Final = (2, 3)
DEFAULT_ALIGNMENT: Final = 32

Type = GGUFValueType
_FORMATS: Final = {
    Type.UINT8: "B", Type.INT8: "b", Type.UINT16: "H", Type.INT16: "h", Type.UINT32: "I", Type.INT32: "i",
    Type.UINT64: "Q", Type.INT64: "q", Type.FLOAT32: "f", Type.FLOAT64: "d", Type.BOOL: "?",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    """The innermost side first."""

    elements: int


@dataclass(frozen=True)
class Header:
    values: dict[str, Any]
    """None for arrays, unless they were asked for or are a few numbers."""

    tensors: tuple[Tensor, ...]


def read(path: Path, *, arrays: bool) -> Header:
    """Raises ``ValueError`` for what is not a whole GGUF file, and ``OSError``."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        with mmap.mmap(file.fileno(), min(size, LARGEST_HEADER_BYTES), access=mmap.ACCESS_READ) as content:
            return _Reader(content, size, arrays=arrays).header()


class _Reader:
    def __init__(self, content: mmap.mmap, file_size: int, *, arrays: bool) -> None:
        self._content = content
        self._file_size = file_size
        self._arrays = arrays
        self._at = 0
        self._items = 0
        self._text_bytes = 0

    def header(self) -> Header:
        if self._take(4) != b"GGUF":
            raise ValueError("it does not begin as one")
        (version,) = self._unpack("I")
        if version not in VERSIONS:
            raise ValueError(f"version {version} is not supported")
        tensor_count, key_count = self._unpack("QQ")
        values = self._distinct(key_count, self._key_and_value)
        found = self._distinct(tensor_count, self._tensor)
        self._check_that_all_data_is_there(_alignment(values), found)
        return Header(values, tuple(tensor for tensor, _ in found.values()))

    def _distinct(self, count: int, read_one: Callable[[], tuple[str, Any]]) -> dict[str, Any]:
        self._count(count)
        found: dict[str, Any] = {}
        for _ in range(count):
            name, what = read_one()
            if name in found:
                raise ValueError("a name is there twice")
            found[name] = what
        return found

    def _key_and_value(self) -> tuple[str, Any]:
        key = self._kept_text()
        value_type = Type(*self._unpack("I"))
        if value_type is Type.ARRAY:
            return key, self._array()
        if value_type is Type.STRING:
            return key, self._kept_text()
        return key, self._unpack(_FORMATS[value_type])[0]

    def _array(self) -> list[Any] | None:
        item_type, count = Type(*self._unpack("I")), *self._unpack("Q")
        self._count(count)
        if item_type is Type.STRING:
            texts = (self._text() for _ in range(count))
            if self._arrays:
                return [text.decode(errors="replace") for text in texts]
            for _ in texts:
                continue
            return None
        if item_type is Type.ARRAY:
            raise ValueError("it has arrays of arrays")
        content = self._take(count * struct.calcsize(_FORMATS[item_type]))
        kept = self._arrays or count <= SHORT_ARRAY
        return list(struct.unpack(f"<{count}{_FORMATS[item_type]}", content)) if kept else None

    def _tensor(self) -> tuple[str, tuple[Tensor, int]]:
        """Its name; itself and where its data ends, from where all data begins."""
        name = self._kept_text()
        (dimensions,) = self._unpack("I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError("a tensor has too many dimensions")
        shape = self._unpack(f"{dimensions}Q")
        tensor_type, begin = GGMLQuantizationType(*self._unpack("I")), *self._unpack("Q")
        elements = 1
        for side in shape:
            elements *= side
        block_elements, block_bytes = GGML_QUANT_SIZES[tensor_type]
        if shape and shape[0] % block_elements:
            raise ValueError("a tensor's rows are not whole blocks")
        tensor = Tensor(name, tensor_type, shape, elements)
        return name, (tensor, begin + elements // block_elements * block_bytes)

    def _check_that_all_data_is_there(self, alignment: int, found: dict[str, tuple[Tensor, int]]) -> None:
        begin = -(-self._at // alignment) * alignment
        if found and begin + max(end for _, end in found.values()) > self._file_size:
            raise ValueError("it ends too early")

    def _kept_text(self) -> str:
        text = self._text()
        self._text_bytes += len(text)
        if self._text_bytes > MOST_TEXT_BYTES:
            raise ValueError("its texts are too long")
        return text.decode(errors="replace")

    def _text(self) -> bytes:
        return self._take(*self._unpack("Q"))

    def _count(self, items: int) -> None:
        self._items += items
        if self._items > MOST_ITEMS:
            raise ValueError("it has too many items")

    def _unpack(self, format_: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{format_}", self._take(struct.calcsize(f"<{format_}")))

    def _take(self, size: int) -> bytes:
        begin, self._at = self._at, self._at + size
        if self._at > len(self._content):
            raise ValueError("it ends too early" if self._at > self._file_size else "its header is too large")
        return self._content[begin : self._at]


def _alignment(values: dict[str, Any]) -> int:
    alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise ValueError("its alignment is no power of two")
    return alignment
