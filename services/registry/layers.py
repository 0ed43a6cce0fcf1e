"""What the layers of a model say: written by ``create``, read when a manifest is installed."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from libs.common import go_template
from libs.common.contracts.inference import ChatMessage, ModelDetails
from libs.common.errors import InvalidRequest
from services.registry import gguf_info
from services.registry.blobs import Blob, BlobStore
from services.registry.gguf_info import GgufInfo
from services.registry.manifests import Layer, Manifest

IMAGE = "application/vnd.ollama.image."
MODEL_TYPE, PROJECTOR_TYPE, ADAPTER_TYPE = IMAGE + "model", IMAGE + "projector", IMAGE + "adapter"
TEMPLATE_TYPE, OLD_TEMPLATE_TYPE = IMAGE + "template", IMAGE + "prompt"
SYSTEM_TYPE, PARAMETERS_TYPE = IMAGE + "system", IMAGE + "params"
MESSAGES_TYPE, LICENSE_TYPE = IMAGE + "messages", IMAGE + "license"

CAPABILITIES = ("completion", "embedding", "rerank", "vision", "tools", "insert", "thinking")
"""In the order in which they are told."""

LARGEST_TEXT_BYTES = 4 << 20
"""Of a layer that is not weights."""

T = TypeVar("T")

Word = Annotated[str, Field(max_length=100)]
"""Of a config: told in every list of models, so no text."""


class Config(BaseModel):
    """What we read of the config blob, and what a model made from another one keeps of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    renderer: Word | None = None
    parser: Word | None = None
    requires: Word | None = None
    capabilities: Annotated[tuple[Word, ...], Field(max_length=32)] | None = None


class Contents(BaseModel):
    """What is kept beside the facts of the weights, so that nobody reads files to resolve or to list."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    projector: str | None = None
    projector_info: dict[str, Any] = {}
    adapters: tuple[str, ...] = ()
    template: str | None = None
    """A Go template."""

    system: str = ""
    parameters: dict[str, Any] = {}
    messages: tuple[ChatMessage, ...] = ()
    capabilities: tuple[str, ...] = ()
    requires: str = ""
    parent_model: str = ""


def one(manifest: Manifest, *media_types: str) -> Layer | None:
    """The last of these types, as Ollama takes it."""
    found = [layer for layer in manifest.layers if layer.media_type in media_types]
    return found[-1] if found else None


def weights_of(manifest: Manifest) -> Layer:
    """Raises ``InvalidRequest`` if there are none."""
    weights = one(manifest, MODEL_TYPE)
    if weights is None:
        raise InvalidRequest("the manifest has no model layer")
    return weights


async def read(store: BlobStore, manifest: Manifest, gguf: GgufInfo) -> Contents:
    """``gguf`` is of the weights. Raises ``InvalidRequest`` for a layer that is not what its type says."""
    projector = one(manifest, PROJECTOR_TYPE)
    projector_info = await gguf_info.read(store.path(projector.blob.digest)) if projector else None
    config = await read_config(store, manifest)
    template = await read_text(store, one(manifest, TEMPLATE_TYPE, OLD_TEMPLATE_TYPE))
    found = await asyncio.to_thread(capabilities, gguf, template, sees=projector is not None)
    return Contents(
        projector=projector.blob.digest if projector else None,
        projector_info=projector_info.model_info if projector_info else {},
        adapters=tuple(layer.blob.digest for layer in manifest.of_type(ADAPTER_TYPE)),
        template=template,
        system=await read_text(store, one(manifest, SYSTEM_TYPE)) or "",
        parameters=await read_parameters(store, one(manifest, PARAMETERS_TYPE)),
        messages=await read_messages(store, manifest),
        # A cross-encoder has no vector to give, whatever its config says.
        capabilities=found if "rerank" in found else config.capabilities or found,
        requires=config.requires or "",
        parent_model=weights_of(manifest).source,
    )


def capabilities(gguf: GgufInfo, template: str | None, *, sees: bool) -> tuple[str, ...]:
    """Of these weights with this Go template, which is then used instead of their own."""
    found = {*gguf.capabilities, *(("vision",) if sees else ())}
    if template is not None:
        found -= {"tools", "insert", "thinking"}
        found |= _capabilities_of_template(template)
    return tuple(name for name in CAPABILITIES if name in found)


def _capabilities_of_template(template: str) -> frozenset[str]:
    try:
        return go_template.capabilities(go_template.parse(template))
    except go_template.TemplateError:
        return frozenset()  # models of others are taken as they are; who asks for an answer is told


async def read_config(store: BlobStore, manifest: Manifest) -> Config:
    return await _parsed(store, manifest.config, Config.model_validate_json) or Config()


async def read_parameters(store: BlobStore, layer: Layer | None) -> dict[str, Any]:
    return await _parsed(store, layer, TypeAdapter(dict[str, Any]).validate_json) or {}


async def read_messages(store: BlobStore, manifest: Manifest) -> tuple[ChatMessage, ...]:
    validate = TypeAdapter(tuple[ChatMessage, ...]).validate_json
    return await _parsed(store, one(manifest, MESSAGES_TYPE), validate) or ()


async def read_license(store: BlobStore, manifest: Manifest) -> str:
    texts = [await read_text(store, layer) for layer in manifest.of_type(LICENSE_TYPE)]
    return "\n".join(text for text in texts if text)


async def read_text(store: BlobStore, layer: Layer | None) -> str | None:
    """None without the layer. Raises ``InvalidRequest`` if it is not a text of a size that anybody needs."""
    content = await _content(store, layer)
    try:
        return content.decode() if content is not None else None
    except UnicodeDecodeError:
        raise InvalidRequest("a layer is not text") from None


async def _parsed(store: BlobStore, layer: Layer | None, validate: Callable[[bytes], T]) -> T | None:
    content = await _content(store, layer)
    try:
        return validate(content) if content else None
    except ValidationError:
        raise InvalidRequest(f"layer {layer.media_type if layer else ''} is not what its type says") from None


async def _content(store: BlobStore, layer: Layer | None) -> bytes | None:
    if layer is None:
        return None
    if layer.blob.size > LARGEST_TEXT_BYTES:
        raise InvalidRequest(f"layer {layer.media_type} is too large")
    try:
        return await asyncio.to_thread(store.path(layer.blob.digest).read_bytes)
    except FileNotFoundError:
        raise InvalidRequest(f"blob {layer.blob.digest} not found") from None


def as_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def config_blob(details: ModelDetails, layers: Sequence[Blob], kept: Config) -> bytes:
    """Ollama's config."""
    document = {
        "model_format": details.format,
        "model_family": details.family,
        "model_families": details.families,
        "model_type": details.parameter_size,
        "file_type": details.quantization_level,
        "context_length": details.context_length,
        "embedding_length": details.embedding_length,
        **{name: value for name, value in kept.model_dump().items() if value},
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [blob.digest for blob in layers]},
    }
    return as_json(document)
