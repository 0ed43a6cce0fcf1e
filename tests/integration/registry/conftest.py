"""The registry on a real database and a directory of its own, asked over the bus."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from aiohttp.abc import AbstractResolver
from pydantic import SecretStr

from libs.common import actor
from libs.common.bus.base import Bus, Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.registry import ModelChanged
from libs.common.database import Database
from libs.common.lifecycle import Runtime
from libs.common.runtime_config import RuntimeConfig
from libs.common.tasks import Tasks
from libs.common.web import HttpServer, create_ops_app
from services.registry.api import router
from services.registry.context import Context, open_context
from services.registry.handlers import handlers
from services.registry.settings import Settings
from tests.fixtures.tiny_gguf import write_tiny_gguf

BLOB_TOKEN = "a token of sixteen characters"
CALLER = actor.Actor(organization_id="default", user_id="someone")


@pytest.fixture(autouse=True)
async def _for_an_organization() -> None:
    """As the gateway says it of whoever asks; a test that is about organizations names its own."""
    actor.become(CALLER)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_bytes(tiny_gguf: Path) -> bytes:
    return tiny_gguf.read_bytes()


@pytest.fixture(scope="session")
def other_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "other.gguf", seed=1)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def settings(tmp_path: Path, tiny_gguf: Path) -> Settings:
    return Settings(data_dir=tmp_path / "registry", blob_token=SecretStr(BLOB_TOKEN), seed_models={"tiny": tiny_gguf})


@asynccontextmanager
async def running_registry(
    settings: Settings, db: Database, broker: MemoryBroker, instance: str, resolver: AbstractResolver | None = None
) -> AsyncIterator[Context]:
    """``resolver`` finds other registries, instead of the system's."""
    async with MemoryBus.open(broker, "registry", instance) as bus:
        tasks = Tasks()
        async with open_context(
            settings, Runtime(instance, bus, tasks, RuntimeConfig(settings), db, None, None), resolver
        ) as ctx:
            await bus.subscribe(handlers, ctx)
            yield ctx
            await tasks.cancel_all()


@pytest.fixture
async def ctx(registry_db: Database, broker: MemoryBroker, settings: Settings) -> AsyncIterator[Context]:
    """The registry, listening and empty."""
    async with running_registry(settings, registry_db, broker, "r1") as ctx:
        yield ctx


@pytest.fixture
async def bus(broker: MemoryBroker, ctx: Context) -> AsyncIterator[Bus]:
    """The gateway's, or a worker's."""
    async with MemoryBus.open(broker, "gateway", "g1") as bus:
        yield bus


@pytest.fixture
async def http(ctx: Context) -> AsyncIterator[httpx.AsyncClient]:
    """A worker's or a gateway's client, on a real server."""
    app = create_ops_app("registry", ctx, None, lambda: None, router)
    tasks = Tasks()
    async with (
        HttpServer.running(app, "127.0.0.1", 0, tasks.start) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {BLOB_TOKEN}", actor.HEADER: actor.encode(CALLER)},
            timeout=10,
        ) as client,
    ):
        yield client


@pytest.fixture
async def changes(broker: MemoryBroker) -> AsyncIterator[list[str]]:
    """Names that were announced as changed."""
    names: list[str] = []
    listening = Handlers("gateway")

    @listening.on(ModelChanged, every_replica=True)
    async def model_changed(event: ModelChanged, _ctx: object) -> None:
        names.append(event.name)

    async with MemoryBus.open(broker, "gateway", "listener") as bus:
        await bus.subscribe(listening, None)
        yield names
