"""Which models there are: import, resolve, list and describe them."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from libs.common.contracts.inference import ModelRef
from libs.common.contracts.registry import BlobLocation, ModelChanged, ModelDescription, ModelSummary
from libs.common.database import Transaction
from libs.common.errors import InvalidModelName, InvalidRequest, ModelNotFound, NotFound, ServiceError, Unavailable
from services.registry import blobs, described, gguf_info, layers, manifests, names, prune
from services.registry.blobs import Blob
from services.registry.context import Context
from services.registry.gguf_info import GgufInfo
from services.registry.manifests import Layer, Manifest
from services.registry.names import ModelName
from services.registry.store import blobs as blob_store
from services.registry.store import models as store
from services.registry.store import versions as version_store
from services.registry.store.models import Content, StoredModel

log = structlog.get_logger(__name__)

ANNOUNCE_AGAIN_SECONDS: Final = 1.0


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


async def import_manifests(ctx: Context) -> None:
    """Models whose manifests are in the directory but not in our tables, as when it is the directory of an Ollama.

    What cannot be imported is left as it is.
    """
    for name in await manifests.names_in_files(ctx.settings.data_dir):
        if await _find(ctx, name) is not None:
            continue
        try:
            await install(ctx, name, await manifests.read(ctx.settings.data_dir, name))
            log.info("imported a model of the directory", model=name.display)
        except (OSError, InvalidRequest) as error:
            log.warning("cannot import a model of the directory", model=name.display, error=str(error))


async def import_gguf(ctx: Context, name: str, path: Path) -> bool:
    """Make ``name`` point to this file; False if it does already. Raises ``InvalidRequest`` and ``OSError``."""
    parsed = names.parse(name)
    info = await gguf_info.read(path)
    weights = await ctx.blobs.add_file(path)
    config = await ctx.blobs.add_bytes(layers.config_blob(info.details, [weights], layers.Config()))
    manifest = manifests.build(config, (Layer(layers.MODEL_TYPE, weights),))
    return await install(ctx, parsed, manifest.text.encode())


async def install(ctx: Context, name: ModelName, manifest: bytes) -> bool:
    """Make ``name`` point to this manifest, whose blobs are all there; False if it does already.

    Raises ``InvalidRequest`` for what is not a manifest of a model that can run, and for missing blobs.
    """
    return await save(ctx, name, await _understood(ctx, manifests.parse(manifest)))


async def save(ctx: Context, name: ModelName, content: Content) -> bool:
    """As ``install``, for a manifest that is understood already. Raises ``InvalidRequest`` for missing blobs."""
    async with ctx.db.transaction() as tx:
        await blob_store.lock_while_referring(tx)
        await _check_blobs(ctx, content.manifest)
        await store.lock_name(tx, name)
        spelled = await store.spelling(tx, name)
        await manifests.write(ctx.settings.data_dir, spelled, content.manifest)
        changed = await _keeping_a_version(tx, ctx.settings.versions_kept, spelled, content)
    if changed:
        await _announce(ctx, spelled)
    return changed


async def _announce(ctx: Context, name: ModelName) -> None:
    """The change stands, whatever the broker does: while it is away, the news waits for it and nobody for the news."""
    event = ModelChanged(name=name.display)
    try:
        await ctx.bus.publish(event)
    except Unavailable:
        ctx.tasks.start(_announce_later(ctx, event), f"announce {name.display}")


async def _announce_later(ctx: Context, event: ModelChanged) -> None:
    while True:
        await asyncio.sleep(ANNOUNCE_AGAIN_SECONDS)
        with suppress(Unavailable):
            await ctx.bus.publish(event)
            return


async def _keeping_a_version(tx: Transaction, kept: int, name: ModelName, content: Content) -> bool:
    before = await store.find_model(tx, name)
    if before is not None and before.digest != content.manifest.digest:
        await version_store.drop_version(tx, before.id, content.manifest.digest)
        await version_store.keep_current(tx, before.id, kept)
    return await store.save_model(tx, name, content)


async def copy(ctx: Context, source: str, destination: str) -> None:
    """The layers are shared. Raises ``ModelNotFound`` and ``InvalidModelName``."""
    parsed = {}
    for role, text in (("source", source), ("destination", destination)):
        try:
            parsed[role] = names.parse(text)
        except InvalidModelName:
            raise InvalidModelName(f'{role} "{text}" is invalid') from None
    model = await _find(ctx, parsed["source"])
    if model is None:
        raise ModelNotFound(f'model "{source}" not found')
    await save(ctx, parsed["destination"], model.content)


async def delete(ctx: Context, name: str) -> None:
    """And its versions, and the layers that nobody else needs. Raises ``ModelNotFound`` and ``InvalidModelName``."""
    try:
        parsed = names.parse(name)
    except InvalidModelName:
        raise InvalidModelName(f'name "{name}" is invalid') from None
    async with ctx.db.transaction() as tx:
        # Nobody writes a manifest in the directories that go with this one's.
        await blob_store.lock_while_removing(tx)
        model = await store.find_model(tx, parsed)
        if model is None:
            raise _not_found(name)
        had = await version_store.list_layers(tx, model.id)
        await store.delete_model(tx, model.id)
        await manifests.remove(ctx.settings.data_dir, model.name)
    await prune.remove_unneeded(ctx, had)
    await _announce(ctx, model.name)


async def find_stored(ctx: Context, name: str) -> StoredModel:
    """Raises ``ModelNotFound``, also for virtual models, and ``InvalidModelName``."""
    model = await _find(ctx, names.parse(name))
    if model is None:
        raise _not_found(name)
    return model


async def find_manifest(ctx: Context, name: str) -> Manifest:
    """Of a model that is stored here. Raises ``ModelNotFound`` and ``InvalidModelName``."""
    return (await find_stored(ctx, name)).content.manifest


async def facts_of(ctx: Context, gguf: Blob) -> GgufInfo:
    """Read only once for all models that have it. Raises ``InvalidRequest``."""
    async with ctx.db.transaction() as tx:
        known = await store.find_facts(tx, gguf.digest)
    return known or await gguf_info.read(ctx.blobs.path(gguf.digest))


async def resolve(ctx: Context, name: str) -> ModelRef:
    """Raises ``InvalidModelName`` and ``ModelNotFound``."""
    parsed = names.parse(name)
    model = await _find(ctx, parsed)
    if model is not None:
        return described.reference(model)
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
    found |= {model.name.display.lower(): described.summary(model) for model in stored}
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
    content = model.content
    info, tensors = (
        await gguf_info.read_in_full(ctx.blobs.path(model.weights)) if verbose else (content.facts.model_info, ())
    )
    license_text = await layers.read_license(ctx.blobs, content.manifest)
    return described.description(model, ctx.blobs.path, license_text, info, tensors)


async def locate(ctx: Context, digest: str) -> BlobLocation:
    """Raises ``InvalidRequest`` and ``NotFound``."""
    blob = await find_blob(ctx, digest)
    url = f"{ctx.settings.blobs_url}/blobs/{blob.digest}"
    return BlobLocation(url=url, path=str(ctx.blobs.path(blob.digest)), size=blob.size)


async def find_blob(ctx: Context, digest: str) -> Blob:
    """Raises ``InvalidRequest`` and ``NotFound``."""
    normalised = blobs.checked(digest)
    blob = await ctx.blobs.find(normalised)
    if blob is None:
        raise NotFound(f"blob {normalised} not found")
    return blob


async def _understood(ctx: Context, manifest: Manifest) -> Content:
    await _check_blobs(ctx, manifest)
    weights = layers.weights_of(manifest).blob
    try:
        facts = await facts_of(ctx, weights)
        return Content(manifest, weights.digest, facts, await layers.read(ctx.blobs, manifest, facts))
    except FileNotFoundError:
        # The last model that had it was deleted meanwhile.
        raise InvalidRequest("a blob of the manifest is not there any more") from None


async def _check_blobs(ctx: Context, manifest: Manifest) -> None:
    """Raises ``InvalidRequest`` unless all are there. Their ages begin anew, so that nobody prunes them meanwhile."""
    for layer in manifest.layers:
        if await ctx.blobs.renew(layer.blob.digest) != layer.blob:
            raise InvalidRequest(f"blob {layer.blob.digest} not found")


async def _is_imported(ctx: Context, name: str, path: Path) -> bool:
    model = await _find(ctx, names.parse(name))
    return model is not None and await ctx.blobs.holds(model.weights, path)


async def _find(ctx: Context, name: ModelName) -> StoredModel | None:
    async with ctx.db.transaction() as tx:
        return await store.find_model(tx, name)


def _not_found(name_as_sent: str) -> ModelNotFound:
    return ModelNotFound(f"model '{name_as_sent}' not found")
