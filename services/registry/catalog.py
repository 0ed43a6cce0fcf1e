"""Which models there are: import, resolve, list and describe them."""

import json
from pathlib import Path

import structlog

from libs.common.contracts.inference import ModelRef
from libs.common.contracts.registry import BlobLocation, ModelChanged, ModelDescription, ModelSummary
from libs.common.errors import InvalidRequest, ModelNotFound, NotFound, ServiceError
from services.registry import blobs, gguf_info, manifests, names
from services.registry.blobs import Blob
from services.registry.context import Context
from services.registry.gguf_info import GgufInfo
from services.registry.manifests import MODEL_TYPE, Layer
from services.registry.names import ModelName
from services.registry.store import models as store
from services.registry.store.models import StoredModel

log = structlog.get_logger(__name__)


async def import_seeds(ctx: Context) -> None:
    """REGISTRY_SEED_MODELS, as often as one likes and on several replicas at once.

    Raises ``SystemExit`` for a seed that cannot be imported.
    """
    for name, path in ctx.settings.seed_models.items():
        try:
            changed = not await _is_imported(ctx, name, path) and await import_gguf(ctx, name, path)
        except (OSError, ServiceError) as error:
            raise SystemExit(f"REGISTRY_SEED_MODELS: cannot import {name} from {path}: {error}") from error
        log.info("imported a seed model" if changed else "a seed model is there already", model=name)


async def import_gguf(ctx: Context, name: str, path: Path) -> bool:
    """Make ``name`` point to this file; False if it does already. Raises ``InvalidRequest`` and ``OSError``."""
    parsed = names.parse(name)
    info = await gguf_info.read(path)
    weights = await ctx.blobs.add_file(path)
    config = await ctx.blobs.add_bytes(_config(info, weights))
    manifest = manifests.build(config, (Layer(MODEL_TYPE, weights),))
    async with ctx.db.transaction() as tx:
        await store.lock_name(tx, parsed)
        spelled = await store.spelling(tx, parsed)
        await manifests.write(ctx.settings.data_dir, spelled, manifest)
        changed = await store.save_model(tx, spelled, manifest, weights.digest, info)
    if changed:
        await ctx.bus.publish(ModelChanged(name=spelled.display))
    return changed


async def resolve(ctx: Context, name: str) -> ModelRef:
    """Raises ``InvalidModelName`` and ``ModelNotFound``."""
    parsed = names.parse(name)
    model = await _find(ctx, parsed)
    if model is not None:
        return _reference(model)
    await ctx.virtual_models.wait_for_first_round()
    virtual = ctx.virtual_models.resolve(parsed)
    if virtual is None:
        raise _not_found(name)
    return virtual


async def list_models(ctx: Context) -> tuple[ModelSummary, ...]:
    """Newest first. A model of ours hides a virtual one of the same name."""
    async with ctx.db.transaction() as tx:
        stored = await store.list_models(tx)
    found = {summary.name.lower(): summary for summary in ctx.virtual_models.summaries()}
    found |= {model.name.display.lower(): _summary(model) for model in stored}
    return tuple(sorted(found.values(), key=lambda summary: summary.modified_at, reverse=True))


async def describe(ctx: Context, name: str, *, verbose: bool) -> ModelDescription:
    """With ``verbose`` the file is read again, for seconds. Raises ``InvalidModelName`` and ``ModelNotFound``."""
    parsed = names.parse(name)
    model = await _find(ctx, parsed)
    if model is None:
        await ctx.virtual_models.wait_for_first_round()
        virtual = ctx.virtual_models.describe(parsed)
        if virtual is None:
            raise _not_found(name)
        return virtual
    facts = model.facts
    weights = ctx.blobs.path(model.weights)
    info, tensors = await gguf_info.read_in_full(weights) if verbose else (facts.model_info, ())
    return ModelDescription(
        name=model.name.display,
        modified_at=model.modified_at.timestamp(),
        details=facts.details,
        model_info=info,
        capabilities=facts.capabilities,
        template=facts.template,
        weights=model.weights,
        tensors=tensors,
    )


async def locate(ctx: Context, digest: str) -> BlobLocation:
    """Raises ``InvalidRequest`` and ``NotFound``."""
    blob = await find_blob(ctx, digest)
    url = f"{ctx.settings.blobs_url}/blobs/{blob.digest}"
    return BlobLocation(url=url, path=str(ctx.blobs.path(blob.digest)), size=blob.size)


async def find_blob(ctx: Context, digest: str) -> Blob:
    """Raises ``InvalidRequest`` and ``NotFound``."""
    normalised = blobs.normalised(digest)
    if normalised is None:
        raise InvalidRequest("invalid digest format")
    blob = await ctx.blobs.find(normalised)
    if blob is None:
        raise NotFound(f"blob {normalised} not found")
    return blob


async def _is_imported(ctx: Context, name: str, path: Path) -> bool:
    model = await _find(ctx, names.parse(name))
    return model is not None and await ctx.blobs.holds(model.weights, path)


async def _find(ctx: Context, name: ModelName) -> StoredModel | None:
    async with ctx.db.transaction() as tx:
        return await store.find_model(tx, name)


def _not_found(name_as_sent: str) -> ModelNotFound:
    return ModelNotFound(f"model '{name_as_sent}' not found")


def _reference(model: StoredModel) -> ModelRef:
    """The template stays in the GGUF, where the engine finds it."""
    facts = model.facts
    return ModelRef(
        name=model.name.display,
        digest=model.digest,
        engine="llama_cpp",
        weights=model.weights,
        size=model.size,
        capabilities=facts.capabilities,
        context_length=facts.details.context_length,
        details=facts.details,
    )


def _summary(model: StoredModel) -> ModelSummary:
    facts = model.facts
    return ModelSummary(
        name=model.name.display,
        digest=model.digest,
        size=model.size,
        modified_at=model.modified_at.timestamp(),
        details=facts.details,
        capabilities=facts.capabilities,
    )


def _config(info: GgufInfo, weights: Blob) -> bytes:
    """Ollama's config layer."""
    details = info.details
    document = {
        "model_format": details.format,
        "model_family": details.family,
        "model_families": details.families,
        "model_type": details.parameter_size,
        "file_type": details.quantization_level,
        "context_length": details.context_length,
        "embedding_length": details.embedding_length,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [weights.digest]},
    }
    return json.dumps(document, separators=(",", ":")).encode()
