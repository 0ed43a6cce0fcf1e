import asyncio
import os
import time
from pathlib import Path

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.registry import DeleteModel, ListModels
from libs.common.errors import InvalidRequest, ModelNotFound
from services.registry import catalog, imports, names, uploads
from services.registry.context import Context
from services.registry.prune import PARTIAL_SECONDS, prune


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


async def old_blob(ctx: Context, content: bytes) -> str:
    """One that no model has, and that is older than such blobs are kept."""
    digest = (await ctx.blobs.add_bytes(content)).digest
    age(ctx.blobs.path(digest), ctx.settings.prune_after_seconds + 1)
    return digest


async def test_what_no_model_needs_goes_after_a_while(ctx: Context, tiny_gguf: Path, other_gguf: Path) -> None:
    for path in (tiny_gguf, other_gguf):
        await imports.import_gguf(ctx, "tiny", path)
    needed = {path.name for path in (ctx.settings.data_dir / "blobs").iterdir()}
    assert len(needed) == 4, "those of the version that was before, too"
    for name in needed:
        age(ctx.settings.data_dir / "blobs" / name, 10 * ctx.settings.prune_after_seconds)
    old, young = await old_blob(ctx, b"old"), (await ctx.blobs.add_bytes(b"young")).digest
    assert await prune(ctx) == [old]
    left = {path.name for path in (ctx.settings.data_dir / "blobs").iterdir()}
    assert left == needed | {young.replace(":", "-")}
    assert await prune(ctx) == []


async def test_models_that_an_ollama_keeps_in_the_directory_stay(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    """OLLAMA_MODELS may point to a directory in use; its manifests are no rows of ours."""
    theirs = await old_blob(ctx, b"weights of another")
    manifest = ctx.settings.data_dir / "manifests/registry.ollama.ai/library/theirs/latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(f'{{"layers":[{{"mediaType":"x","digest":"{theirs}","size":18}}]}}')
    assert await prune(ctx) == []
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    (shared, *_) = [layer.blob.digest for layer in (await catalog.find_manifest(ctx, "tiny")).layers]
    manifest.write_text(manifest.read_text() + shared)
    await bus.ask(DeleteModel(name="tiny"))
    assert ctx.blobs.path(shared).is_file()
    assert ctx.blobs.path(theirs).is_file()


async def test_what_somebody_is_about_to_use_stays(ctx: Context) -> None:
    digest = await old_blob(ctx, b"uploaded long ago")
    assert await ctx.blobs.renew(digest)
    assert await prune(ctx) == []
    assert ctx.blobs.path(digest).is_file()


async def test_layers_of_forgotten_versions_go(ctx: Context, bus: Bus, tiny_gguf: Path, other_gguf: Path) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    await imports.import_gguf(ctx, "other", other_gguf)
    await bus.ask(DeleteModel(name="tiny"))
    (model,) = await bus.ask(ListModels())
    assert model.name == "other:latest"
    for path in (ctx.settings.data_dir / "blobs").iterdir():
        age(path, 10 * ctx.settings.prune_after_seconds)
    assert await prune(ctx) == []


async def test_partial_files_are_kept_for_a_day(ctx: Context) -> None:
    dead, alive = ctx.blobs.partial_path("sha256:" + "1" * 64), ctx.blobs.partial_path("sha256:" + "2" * 64, 3)
    for path, seconds in ((dead, PARTIAL_SECONDS + 1), (alive, PARTIAL_SECONDS - 60)):
        path.write_bytes(b"begun")
        age(path, seconds)
    await prune(ctx)
    assert [path for path in (dead, alive) if path.exists()] == [alive]


async def test_uploads_that_nobody_goes_on_with_are_given_up(ctx: Context) -> None:
    await prune(ctx)  # before there is a directory for them
    dead, alive = await uploads.begin(ctx), await uploads.begin(ctx)
    age(ctx.settings.data_dir / "uploads" / dead, uploads.LONGEST_PAUSE_SECONDS + 1)
    await prune(ctx)
    assert [path.name for path in (ctx.settings.data_dir / "uploads").iterdir()] == [alive]


async def test_nobody_refers_to_a_blob_while_it_goes(ctx: Context, tiny_gguf: Path) -> None:
    """Installing, deleting and pruning the same old blobs at once: the model is whole, or it is not there."""
    for _ in range(5):
        await imports.import_gguf(ctx, "tiny", tiny_gguf)
        manifest = await catalog.find_manifest(ctx, "tiny")
        for layer in manifest.layers:
            age(ctx.blobs.path(layer.blob.digest), 10 * ctx.settings.prune_after_seconds)
        installed, _, _ = await asyncio.gather(
            catalog.install(ctx, names.parse("again"), manifest.text.encode()),
            prune(ctx),
            catalog.delete(ctx, "tiny"),
            return_exceptions=True,
        )
        if isinstance(installed, InvalidRequest):
            with pytest.raises(ModelNotFound):
                await catalog.find_manifest(ctx, "again")
        else:
            assert installed is True
            assert all([await ctx.blobs.find(layer.blob.digest) for layer in manifest.layers])
            await catalog.delete(ctx, "again")


async def test_a_registry_that_is_empty(ctx: Context) -> None:
    assert await prune(ctx) == []
