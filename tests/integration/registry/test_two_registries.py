"""Two installations push to and pull from each other, over real HTTP."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from libs.common import actor
from libs.common.bus.memory import MemoryBroker
from libs.common.contracts.registry import Progress, ResolveModel
from libs.common.errors import ModelNotFound, ServiceError
from libs.common.tasks import Tasks
from libs.common.web import HttpServer, create_ops_app
from services.registry import catalog, imports
from services.registry.api import router
from services.registry.context import Context
from services.registry.pull import pull
from services.registry.push import push
from services.registry.settings import Settings
from tests.fixtures.database import new_database, open_database
from tests.integration.registry.conftest import CALLER, running_registry

TOKEN = "what the other one demands"


@dataclass
class Other:
    ctx: Context
    host: str


def through_a_gateway(app: ASGIApp) -> ASGIApp:
    """It says on whose behalf it asks."""

    async def with_actor(scope: Scope, receive: Receive, send: Send) -> None:
        said = (actor.HEADER.encode(), actor.encode(CALLER).encode())
        await app({**scope, "headers": [*scope.get("headers", []), said]}, receive, send)

    return with_actor


@pytest.fixture
async def other(
    tmp_path: Path, postgres_url: str, passwords: dict[str, str], migrated_database: str
) -> AsyncIterator[Other]:
    settings = Settings(data_dir=tmp_path / "other", blob_token=SecretStr(TOKEN))
    with new_database(postgres_url, passwords, migrated_database) as urls:
        async with (
            open_database(urls["registry"]) as db,
            running_registry(settings, db, MemoryBroker(), "other") as ctx,
            HttpServer.running(
                through_a_gateway(create_ops_app("registry", ctx, None, lambda: None, router)),
                "127.0.0.1",
                0,
                Tasks().start,
            ) as port,
        ):
            yield Other(ctx, f"127.0.0.1:{port}")


@pytest.fixture
def settings(tmp_path: Path, other: Other) -> Settings:
    return Settings(
        data_dir=tmp_path / "registry",
        blob_token=SecretStr("a token of sixteen characters"),
        allow_private_hosts=("127.0.0.1",),
        credentials={f"http://{other.host}": SecretStr(TOKEN)},
        part_min_bytes=50_000,
    )


def ignore(_progress: Progress) -> None: ...


async def test_a_model_goes_there_and_comes_back(
    ctx: Context, other: Other, tiny_gguf: Path, tiny_bytes: bytes
) -> None:
    name = f"{other.host}/team/tiny:v1"
    await imports.import_gguf(ctx, name, tiny_gguf)
    await push(ctx, name, insecure=True, report=ignore)
    here, there = await catalog.resolve(ctx, name), await catalog.resolve(other.ctx, "team/tiny:v1")
    assert there.digest == here.digest
    assert there.weights is not None
    assert other.ctx.blobs.path(there.weights).read_bytes() == tiny_bytes
    await catalog.delete(ctx, name)
    assert await ctx.blobs.find(there.weights) is None
    await pull(ctx, name, insecure=True, report=ignore)
    assert (await catalog.resolve(ctx, name)).digest == there.digest
    assert ctx.blobs.path(there.weights).read_bytes() == tiny_bytes


async def test_a_model_that_the_other_one_does_not_have(ctx: Context, other: Other) -> None:
    with pytest.raises(ServiceError, match=r"^pull model manifest: file does not exist$"):
        await pull(ctx, f"{other.host}/team/none", insecure=True, report=ignore)


async def test_without_a_credential_nothing_goes_there(
    settings: Settings, ctx: Context, broker: MemoryBroker, other: Other, tiny_gguf: Path
) -> None:
    stranger = settings.model_copy(update={"credentials": {}})
    name = f"{other.host}/team/tiny:v1"
    await imports.import_gguf(ctx, name, tiny_gguf)
    async with running_registry(stranger, ctx.db, broker, "stranger") as strange:
        with pytest.raises(ServiceError, match="unauthorized: access denied"):
            await push(strange, name, insecure=True, report=ignore)
    with pytest.raises(ModelNotFound):
        await other.ctx.bus.ask(ResolveModel(name="team/tiny:v1"))
