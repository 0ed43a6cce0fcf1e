"""Layers of weights from the files that a client has uploaded."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from libs.common.contracts.registry import Progress
from libs.common.errors import InvalidRequest
from services.registry import blobs, gguf_info, holdings
from services.registry.blobs import Blob
from services.registry.context import Context
from services.registry.conversion import quantization, safetensors
from services.registry.gguf_info import GgufInfo
from services.registry.layers import ADAPTER_TYPE, MODEL_TYPE, PROJECTOR_TYPE
from services.registry.manifests import Layer
from services.registry.progress import Report

MOST_FILES = 1000
MAGIC = b"GGUF"
NOT_GGUF = "supplied file was not in GGUF format"


@dataclass(frozen=True)
class File:
    """``name`` is relative to the directory of the Modelfile, and never used as a path."""

    name: str
    blob: Blob
    path: Path


async def model_layers(ctx: Context, files: Mapping[str, str], report: Report) -> list[Layer]:
    """``files``: names to digests. Raises ``InvalidRequest`` with Ollama's words."""
    found = await _find(ctx, files)
    if any(file.name.endswith(".safetensors") for file in found):
        report(Progress(status="converting model"))
        async with ctx.converting, ctx.blobs.scratch() as target:
            await safetensors.convert({file.name: file.path for file in found}, target)
            return [Layer(MODEL_TYPE, await holdings.add_file(ctx, target))]
    if not await _are_gguf(found):
        raise InvalidRequest("unknown type")
    return await _gguf_layers(ctx, found, report)


async def adapter_layers(ctx: Context, files: Mapping[str, str], report: Report) -> list[Layer]:
    """As ``model_layers``, of one LoRA adapter."""
    found = await _find(ctx, files)
    if not await _are_gguf(found):
        raise InvalidRequest("unknown type")
    if len(found) > 1:
        raise InvalidRequest("only one adapter is currently supported")
    layers = await _gguf_layers(ctx, found, report)
    if any(layer.media_type != ADAPTER_TYPE for layer in layers):
        raise InvalidRequest("the file is not an adapter")
    return layers


async def _find(ctx: Context, files: Mapping[str, str]) -> list[File]:
    """In the order of their names. Their ages begin anew, so that nobody prunes them meanwhile."""
    if not files:
        raise InvalidRequest("no files provided to convert")
    if len(files) > MOST_FILES:
        raise InvalidRequest("too many files")
    return [await _file(ctx, name, digest) for name, digest in sorted(files.items())]


async def _file(ctx: Context, name: str, digest: str) -> File:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name in {"", "."} or not name.isprintable():
        raise InvalidRequest("file path must be relative")
    normalised = blobs.checked(digest)
    blob = await holdings.renew(ctx, normalised)
    if blob is None:
        raise InvalidRequest(f"blob {normalised} not found")
    return File(name, blob, ctx.blobs.path(normalised))


async def _are_gguf(files: list[File]) -> bool:
    """By their names, or by how all of them begin."""
    if any(file.name.endswith(".gguf") for file in files):
        return True
    return all([await asyncio.to_thread(_begins_as_gguf, file.path) for file in files])


def _begins_as_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


async def _gguf_layers(ctx: Context, files: list[File], report: Report) -> list[Layer]:
    layers: list[Layer] = []
    shards: list[tuple[File, GgufInfo]] = []
    for file in files:
        report(Progress(status="parsing GGUF"))
        if not await asyncio.to_thread(_begins_as_gguf, file.path):
            raise InvalidRequest(NOT_GGUF)
        info = await gguf_info.read(file.path)
        media_type = _media_type(info)
        if media_type == MODEL_TYPE:
            shards.append((file, info))
        else:
            layers.append(Layer(media_type, file.blob))
    if shards:
        layers.insert(0, Layer(MODEL_TYPE, await _whole(ctx, shards)))
    return layers


def _media_type(info: GgufInfo) -> str:
    if info.model_info.get("general.type") == "adapter":
        return ADAPTER_TYPE
    if info.details.family == "clip" or info.model_info.get("general.type") == "mmproj":
        return PROJECTOR_TYPE
    return MODEL_TYPE


async def _whole(ctx: Context, shards: list[tuple[File, GgufInfo]]) -> Blob:
    """Shards are merged: every engine, and every Ollama that pulls the model, can load one file."""
    count = len(shards)
    by_number = {info.model_info.get("split.no", 0): file for file, info in shards}
    expected = {info.model_info.get("split.count", 1) or 1 for _, info in shards}
    if by_number.keys() != set(range(count)) or expected != {count}:
        raise InvalidRequest("the files are not all the shards of one model")
    if count == 1:
        return shards[0][0].blob
    async with ctx.converting, ctx.blobs.scratch() as target:
        sources = [by_number[number].path for number in range(count)]
        await quantization.rewrite(sources, target)
        return await holdings.add_file(ctx, target)
