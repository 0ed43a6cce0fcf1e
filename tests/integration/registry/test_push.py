"""Pushes to a registry that behaves badly."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from libs.common.contracts.registry import CreateModel, Progress
from libs.common.errors import ModelNotFound, ServiceError
from services.registry import catalog, imports
from services.registry.context import Context
from services.registry.create import create
from services.registry.manifests import Manifest
from services.registry.push import push
from services.registry.settings import Settings
from tests.fixtures.fake_registry import FakeRegistry
from tests.integration.registry.conftest import BLOB_TOKEN


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "registry",
        blob_token=SecretStr(BLOB_TOKEN),
        allow_private_hosts=("127.0.0.1",),
        part_min_bytes=50_000,
    )


@pytest.fixture
async def there() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry().running() as registry:
        yield registry


@pytest.fixture
async def name(ctx: Context, there: FakeRegistry, tiny_gguf: Path) -> str:
    """Of a model of ours that belongs over there."""
    name = f"{there.host}/me/tiny:v1"
    await imports.import_gguf(ctx, name, tiny_gguf)
    return name


@pytest.fixture
async def manifest(ctx: Context, name: str) -> Manifest:
    return await catalog.find_manifest(ctx, name)


async def pushed(ctx: Context, name: str) -> list[Progress]:
    told: list[Progress] = []
    await push(ctx, name, insecure=True, report=told.append)
    return told


async def test_a_push(ctx: Context, there: FakeRegistry, name: str, manifest: Manifest, tiny_bytes: bytes) -> None:
    told = await pushed(ctx, name)
    config, weights = (layer.blob for layer in manifest.layers)
    pushing = [f"pushing {blob.digest[7:19]}" for blob in (weights, config)]
    statuses = list(dict.fromkeys(progress.status for progress in told))
    assert statuses == ["retrieving manifest", *pushing, "pushing manifest", "success"]
    for blob in (weights, config):
        counts = [progress.completed for progress in told if progress.digest == blob.digest]
        assert counts == sorted(counts)
        assert (counts[0], counts[-1]) == (0, blob.size)
    assert there.manifests["me/tiny:v1"] == manifest.text.encode()
    assert there.blobs[weights.digest] == tiny_bytes
    assert len(there.asked("PATCH", "/uploads/u0")) == -(-len(tiny_bytes) // 50_000)


async def test_what_is_there_is_not_sent_again(ctx: Context, there: FakeRegistry, name: str, tiny_bytes: bytes) -> None:
    await pushed(ctx, name)
    there.seen.clear()
    told = await pushed(ctx, name)
    assert {seen.method for seen in there.seen} == {"HEAD", "PUT"}
    assert told[-1].status == "success"


async def test_broken_pieces_are_gone_on_with(
    ctx: Context, there: FakeRegistry, name: str, manifest: Manifest, tiny_bytes: bytes
) -> None:
    there.cut_after = [30_000, 16_000]
    await pushed(ctx, name)
    assert there.cut_after == []
    assert there.blobs[manifest.layers[1].blob.digest] == tiny_bytes


async def test_a_token_on_demand(ctx: Context, there: FakeRegistry, name: str) -> None:
    there.token = "secret"
    assert (await pushed(ctx, name))[-1].status == "success"
    assert len(there.asked("GET", "/token")) == 1


async def test_a_registry_that_refuses(ctx: Context, there: FakeRegistry, name: str) -> None:
    there.token, there.token_needs = "secret", "Basic nobody-has-it"
    with pytest.raises(ServiceError, match="unauthorized: access denied"):
        await pushed(ctx, name)
    assert there.manifests == {}


@pytest.mark.parametrize(("base", "mounted"), [("{there}/me/base", True), ("elsewhere.example/me/base", False)])
async def test_a_layer_of_another_model_over_there_is_mounted(
    ctx: Context, there: FakeRegistry, tiny_gguf: Path, base: str, mounted: bool
) -> None:
    base, name = base.format(there=there.host), f"{there.host}/me/mine"
    await imports.import_gguf(ctx, base, tiny_gguf)
    await create(ctx, CreateModel(operation_id="o", name=name, base=base, system="Be brief."), lambda _: None)
    weights = (await catalog.find_manifest(ctx, name)).layers[1].blob
    tiny_bytes = await asyncio.to_thread(tiny_gguf.read_bytes)
    there.elsewhere["me/base", weights.digest] = tiny_bytes
    told = await pushed(ctx, name)
    assert there.blobs[weights.digest] == tiny_bytes
    assert (bytes(there.uploads["u0"]) == tiny_bytes) is not mounted
    assert [progress.completed for progress in told if progress.digest == weights.digest][-1] == weights.size


async def test_a_model_that_is_not_here(ctx: Context, there: FakeRegistry) -> None:
    with pytest.raises(ModelNotFound, match=r"model '.*/me/other' not found"):
        await pushed(ctx, f"{there.host}/me/other")
    assert there.seen == []


async def test_a_name_without_a_namespace_of_ones_own(ctx: Context, tiny_gguf: Path) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    with pytest.raises(ServiceError, match="unauthorized: access denied: the name must say where to"):
        await pushed(ctx, "tiny")


@pytest.mark.parametrize("status", [307, 413])
async def test_a_registry_that_does_not_take_a_piece(ctx: Context, there: FakeRegistry, name: str, status: int) -> None:
    there.refusals = [status]
    with pytest.raises(ServiceError, match=r"redirects what is sent|413"):
        await pushed(ctx, name)
