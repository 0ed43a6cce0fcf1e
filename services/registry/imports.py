"""Models that nobody asked for over the bus: seeds, and those that lie in the directory already.

They belong to the operating organization.
"""

from pathlib import Path
from typing import Final

import structlog

from libs.common import actor
from libs.common.contracts.permissions import OPERATING_ORGANIZATION
from libs.common.errors import InvalidRequest, ServiceError
from services.registry import catalog, gguf_info, holdings, layers, manifests, names
from services.registry.context import Context
from services.registry.manifests import Layer
from services.registry.names import ModelName

log = structlog.get_logger(__name__)

OPERATOR: Final = actor.Actor(organization_id=OPERATING_ORGANIZATION)


async def import_seeds(ctx: Context) -> None:
    """REGISTRY_SEED_MODELS, as often as one likes and on several replicas at once.

    All organizations see them, until somebody says otherwise. Raises ``SystemExit`` for one that cannot be imported.
    """
    with actor.acting(OPERATOR):
        for name, path in ctx.settings.seed_models.items():
            try:
                changed = not await _is_imported(ctx, name, path) and await import_gguf(ctx, name, path, shared=True)
            except (OSError, ServiceError) as error:
                raise SystemExit(f"REGISTRY_SEED_MODELS: cannot import {name} from {path}: {error}") from error
            log.info("imported a seed model" if changed else "a seed model is there already", model=name)


async def import_manifests(ctx: Context) -> None:
    """Models whose manifests are in the directory but not in our tables, as when it is the directory of an Ollama.

    What cannot be imported is left as it is.
    """
    with actor.acting(OPERATOR):
        for name in await manifests.names_in_files(ctx.settings.data_dir):
            if await catalog.find(ctx, name) is not None:
                continue
            try:
                await _import_manifest(ctx, name)
                log.info("imported a model of the directory", model=name.display)
            except (OSError, InvalidRequest) as error:
                log.warning("cannot import a model of the directory", model=name.display, error=str(error))


async def _import_manifest(ctx: Context, name: ModelName) -> None:
    """Who put it in the directory has put its blobs there, too."""
    content = await manifests.read(ctx.settings.data_dir, name)
    for layer in manifests.parse(content).layers:
        await holdings.brought(ctx, layer.blob)
    await catalog.install(ctx, name, content)


async def import_gguf(ctx: Context, name: str, path: Path, *, shared: bool = False) -> bool:
    """Make ``name`` point to this file; False if it does already. Raises ``InvalidRequest`` and ``OSError``."""
    parsed = names.parse(name)
    info = await gguf_info.read(path)
    weights = await holdings.add_file(ctx, path)
    config = await holdings.add_bytes(ctx, layers.config_blob(info.details, [weights], layers.Config()))
    manifest = manifests.build(config, (Layer(layers.MODEL_TYPE, weights),))
    return await catalog.install(ctx, parsed, manifest.text.encode(), shared=shared)


async def _is_imported(ctx: Context, name: str, path: Path) -> bool:
    model = await catalog.find(ctx, names.parse(name))
    return model is not None and await ctx.blobs.holds(model.weights, path)
