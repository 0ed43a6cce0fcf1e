"""A program: writes GGUF files as one, with other types of tensors if asked to, in flat memory.

``python -m services.registry.conversion.rewrite TARGET TYPE SOURCE...`` with the shards of one model in their order.
TYPE is a key of ``FILE_TYPES``, or ``-`` to leave all as it is. Tells on stdout, a line each, how many bytes of all it
has read: ``DONE TOTAL``.
"""

import ctypes
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import (
    GGMLQuantizationType,
    GGUFReader,
    GGUFValueType,
    GGUFWriter,
    ReaderTensor,
    quant_shape_to_byte_shape,
    quants,
)

from services.registry.conversion.tensor_types import FILE_TYPES, plan

BATCH_ELEMENTS: Final = 4 << 20
ABOUT_THE_FILE: Final = ("GGUF.", "split.")
WRITTEN_BY_ITSELF: Final = frozenset({"general.architecture", "general.alignment"})

Type = GGMLQuantizationType
Rows = np.ndarray[Any, Any]


def rewrite(target: Path, file_type: str | None, sources: list[Path], report: Callable[[int, int], None]) -> None:
    readers = [GGUFReader(source) for source in sources]
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    present = {tensor.name: tensor.tensor_type for tensor in tensors}
    types = present
    if file_type is not None:
        shapes = {tensor.name: [int(side) for side in tensor.shape] for tensor in tensors}
        types = plan(shapes, present, FILE_TYPES[file_type])
    with closing(GGUFWriter(target, readers[0].fields["general.architecture"].contents())) as writer:
        _copy_metadata(readers[0], writer, file_type)
        for tensor in tensors:
            shape = [int(side) for side in reversed(tensor.shape)]
            size = int(np.prod(quant_shape_to_byte_shape(shape, types[tensor.name])))
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, types[tensor.name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_tensors(writer, tensors, types, report)


def _copy_metadata(source: GGUFReader, writer: GGUFWriter, file_type: str | None) -> None:
    if source.alignment != writer.data_alignment:
        writer.add_custom_alignment(source.alignment)
    for name, field in source.fields.items():
        if name.startswith(ABOUT_THE_FILE) or name in WRITTEN_BY_ITSELF:
            continue
        if name == "general.file_type" and file_type is not None:
            continue
        value_type = field.types[0]
        item_type = field.types[-1] if value_type is GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), value_type, item_type)
    if file_type is not None:
        writer.add_file_type(FILE_TYPES[file_type])


def _write_tensors(
    writer: GGUFWriter, tensors: list[ReaderTensor], types: dict[str, Type], report: Callable[[int, int], None]
) -> None:
    total, done = sum(int(tensor.n_bytes) for tensor in tensors), 0
    assert writer.fout is not None
    out = writer.fout[0]
    writer.write_padding(out, out.tell())
    for tensor in tensors:
        written = 0
        for rows in _converted(tensor, types[tensor.name]):
            rows.tofile(out)
            written += rows.nbytes
            # A batch of the source is as large a part of it as of the target.
            report(done + int(tensor.n_bytes) * written // max(1, _size(tensor, types[tensor.name])), total)
        writer.write_padding(out, written)
        done += int(tensor.n_bytes)
    report(total, total)


def _size(tensor: ReaderTensor, wanted: Type) -> int:
    return int(np.prod(quant_shape_to_byte_shape([int(side) for side in reversed(tensor.shape)], wanted)))


def _converted(tensor: ReaderTensor, wanted: Type) -> Iterator[Rows]:
    """The bytes of the tensor, some rows at a time."""
    rows = tensor.data.reshape(-1, tensor.data.shape[-1]) if tensor.data.ndim else tensor.data.reshape(1, 1)
    step = max(1, BATCH_ELEMENTS // max(1, int(tensor.shape[0])))
    for first in range(0, len(rows), step):
        batch = rows[first : first + step]
        if wanted is tensor.tensor_type:
            yield np.ascontiguousarray(batch)
        else:
            yield _quantized(quants.dequantize(np.ascontiguousarray(batch), tensor.tensor_type), wanted)


def _quantized(rows: Rows, wanted: Type) -> Rows:
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if wanted is Type.F32:
        return rows
    packed = np.empty(quant_shape_to_byte_shape(rows.shape, wanted), np.uint8)
    written = _ggml().ggml_quantize_chunk(int(wanted), rows.ctypes.data, packed.ctypes.data, 0, *rows.shape, None)
    assert written == packed.nbytes
    return packed


@cache
def _ggml() -> ctypes.CDLL:
    """The quantizers of the engine itself: xllamacpp exports ggml's C functions."""
    library = importlib.util.find_spec("xllamacpp.xllamacpp")
    assert library is not None
    assert library.origin is not None
    ggml = ctypes.CDLL(library.origin)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        *(ctypes.c_void_p, ctypes.c_void_p),
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64),
        ctypes.c_void_p,
    ]
    return ggml


def _told(done: int, total: int) -> None:
    print(done, total, flush=True)  # noqa: T201  a program's output


def main(arguments: list[str]) -> None:
    target, file_type, *sources = arguments
    rewrite(Path(target), None if file_type == "-" else file_type, [Path(source) for source in sources], _told)


if __name__ == "__main__":
    main(sys.argv[1:])
