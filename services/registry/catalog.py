"""Which models there are: import, resolve, list and describe them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

import structlog

from libs.common import actor
from libs.common.contracts.inference import ModelRef
from libs.common.contracts.registry import BlobLocation, ModelChanged, ModelDescription, ModelSummary
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import (
    Forbidden,
    InvalidModelName,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    Unavailable,
)
from services.registry import blobs, described, gguf_info, holdings, layers, manifests, names, prune
from services.registry.blobs import Blob
from services.registry.context import Context
from services.registry.gguf_info import GgufInfo
from services.registry.manifests import Manifest
from services.registry.names import ModelName
from services.registry.store import blobs as blob_store
from services.registry.store import models as store
from services.registry.store import versions as version_store
from services.registry.store.models import Content, Saved, StoredModel

log = structlog.get_logger(__name__)

Found = TypeVar("Found")

ANNOUNCE_AGAIN_SECONDS: Final = 1.0


async def install(ctx: Context, name: ModelName, manifest: bytes, *, shared: bool = False) -> bool:
    """Make ``name`` point to this manifest, whose blobs are all there; False if it does already.

    Raises ``InvalidRequest`` for what is not a manifest of a model that can run, and for missing blobs.
    """
    return await save(ctx, name, await _understood(ctx, manifests.parse(manifest)), shared=shared)


async def save(ctx: Context, name: ModelName, content: Content, *, shared: bool = False) -> bool:
    """As ``install``, for a manifest that is understood already. Raises ``InvalidRequest`` for missing blobs."""
    organization = actor.current().organization_id
    async with ctx.db.transaction() as tx:
        await blob_store.lock_while_referring(tx)
        await _check_blobs(ctx, tx, content.manifest)
        await store.lock_name(tx, organization, name)
        spelled = await store.spelling(tx, organization, name)
        await manifests.write(manifests.home(ctx.settings.data_dir, organization), spelled, content.manifest)
        saved = await _keeping_a_version(tx, ctx.settings.versions_kept, spelled, content, shared=shared)
    if saved is None:
        return False
    await announce(ctx, spelled, organization, shared=saved.shared)
    return True


async def announce(ctx: Context, name: ModelName, organization: str, *, shared: bool) -> None:
    """The change stands, whatever the broker does: while it is away, the news waits for it and nobody for the news.

    ``shared``: it is seen by all, or was.
    """
    event = ModelChanged(name=name.display, organization_id="" if shared else organization)
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


async def _keeping_a_version(
    tx: Transaction, kept: int, name: ModelName, content: Content, *, shared: bool
) -> Saved | None:
    before = await store.find_model(tx, name)
    if before is not None and before.own and before.digest != content.manifest.digest:
        await version_store.drop_version(tx, before.id, content.manifest.digest)
        await version_store.keep_current(tx, before.id, kept)
    who = actor.current()
    return await store.save_model(tx, who.organization_id, name, content, created_by=who.user_id, shared=shared)


async def copy(ctx: Context, source: str, destination: str) -> None:
    """The layers are shared. Raises ``ModelNotFound`` and ``InvalidModelName``."""
    parsed = {}
    for role, text in (("source", source), ("destination", destination)):
        try:
            parsed[role] = names.parse(text)
        except InvalidModelName:
            raise InvalidModelName(f'{role} "{text}" is invalid') from None
    model = await find(ctx, parsed["source"])
    if model is None:
        raise ModelNotFound(f'model "{source}" not found')
    await save(ctx, parsed["destination"], model.content)


async def delete(ctx: Context, name: str) -> None:
    """And its versions, and the layers that nobody else needs.

    Raises ``ModelNotFound``, ``InvalidModelName``, and ``Forbidden`` for one of another organization.
    """
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
        check_own(model)
        had = await version_store.list_layers(tx, model.id)
        await store.delete_model(tx, model.id)
        await manifests.remove(manifests.home(ctx.settings.data_dir, model.organization_id), model.name)
    await prune.remove_unneeded(ctx, model.organization_id, had)
    await announce(ctx, model.name, model.organization_id, shared=model.shared)


def check_own(model: StoredModel) -> None:
    """Raises ``Forbidden``."""
    if not model.own:
        raise Forbidden(f"model '{model.name.short}' belongs to another organization, which shares it")


async def find_stored(ctx: Context, name: str) -> StoredModel:
    """Raises ``ModelNotFound``, also for virtual models, and ``InvalidModelName``."""
    model = await find(ctx, names.parse(name))
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
    model = await find(ctx, names.parse(name))
    if model is not None:
        return described.reference(model)
    return await find_virtual(ctx, name, ctx.virtual_models.resolve)


async def find_virtual(ctx: Context, name: str, look: Callable[[ModelName], Found | None]) -> Found:
    """By this look at what workers announce, of which all are heard first. Raises as ``resolve``."""
    await ctx.virtual_models.wait_for_first_round()
    found = look(names.parse(name))
    if found is None:
        raise _not_found(name)
    return found


async def list_models(ctx: Context) -> tuple[ModelSummary, ...]:
    """Newest first. A model of ours hides a virtual one of the same name."""
    async with ctx.db.transaction() as tx:
        stored = await store.list_models(tx)
    found = {summary.name.lower(): summary for summary in ctx.virtual_models.summaries()}
    found |= {model.name.display.lower(): described.summary(model) for model in stored}
    return tuple(sorted(found.values(), key=lambda summary: summary.modified_at, reverse=True))


async def describe(ctx: Context, name: str, *, verbose: bool) -> ModelDescription:
    """With ``verbose`` the file is read again, for seconds. Raises ``InvalidModelName`` and ``ModelNotFound``."""
    model = await find(ctx, names.parse(name))
    if model is None:
        return await find_virtual(ctx, name, ctx.virtual_models.describe)
    content = model.content
    info, tensors = (
        await gguf_info.read_in_full(ctx.blobs.path(model.weights)) if verbose else (content.facts.model_info, ())
    )
    license_text = await layers.read_license(ctx.blobs, content.manifest)
    return described.description(model, ctx.blobs.path, license_text, info, tensors)


async def locate(ctx: Context, digest: str) -> BlobLocation:
    """For a worker. Raises ``InvalidRequest`` and ``NotFound``."""
    with actor.acting(actor.Actor(organization_id=EVERY_ORGANIZATION)):
        blob = await find_blob(ctx, digest)
    url = f"{ctx.settings.blobs_url}/blobs/{blob.digest}"
    return BlobLocation(url=url, path=str(ctx.blobs.path(blob.digest)), size=blob.size)


async def find_blob(ctx: Context, digest: str) -> Blob:
    """Raises ``InvalidRequest`` and ``NotFound``."""
    normalised = blobs.checked(digest)
    blob = await holdings.find(ctx, normalised)
    if blob is None:
        raise NotFound(f"blob {normalised} not found")
    return blob


async def _understood(ctx: Context, manifest: Manifest) -> Content:
    async with ctx.db.transaction() as tx:
        await _check_blobs(ctx, tx, manifest)
    weights = layers.weights_of(manifest).blob
    try:
        facts = await facts_of(ctx, weights)
        return Content(manifest, weights.digest, facts, await layers.read(ctx.blobs, manifest, facts))
    except FileNotFoundError:
        # The last model that had it was deleted meanwhile.
        raise InvalidRequest("a blob of the manifest is not there any more") from None


async def _check_blobs(ctx: Context, tx: Transaction, manifest: Manifest) -> None:
    """Raises ``InvalidRequest`` unless all are there, and the organization's to use.

    Their ages begin anew, so that nobody prunes them meanwhile.
    """
    known = await blob_store.known(tx, [layer.blob.digest for layer in manifest.layers])
    for layer in manifest.layers:
        if layer.blob.digest not in known or await ctx.blobs.renew(layer.blob.digest) != layer.blob:
            raise InvalidRequest(f"blob {layer.blob.digest} not found")


async def find(ctx: Context, name: ModelName) -> StoredModel | None:
    async with ctx.db.transaction() as tx:
        return await store.find_model(tx, name)


def _not_found(name_as_sent: str) -> ModelNotFound:
    return ModelNotFound(f"model '{name_as_sent}' not found")
