"""The scheduler's context on a real database and a real Redis, asked over the bus as the gateway asks it."""

import base64
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from libs.common import actor
from libs.common.bus.base import Bus
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.database import Database
from libs.common.lifecycle import Runtime
from libs.common.redis_client import open_redis
from libs.common.runtime_config import RuntimeConfig
from libs.common.settings import RedisSettings
from libs.common.tasks import Tasks
from services.scheduler.context import Context, open_context
from services.scheduler.handlers import handlers
from services.scheduler.settings import Settings


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def ctx(broker: MemoryBroker, redis_url: str, scheduler_db: Database) -> AsyncIterator[Context]:
    """Not listening, and without its background loops."""
    settings = Settings(secret_key=SecretStr(base64.b64encode(bytes(32)).decode()))
    redis_settings = RedisSettings(url=redis_url, finished_log_ttl_seconds=5)
    async with MemoryBus.open(broker, "scheduler", "s1") as bus, open_redis(redis_settings) as client:
        runtime = Runtime("s1", bus, Tasks(), RuntimeConfig(settings), scheduler_db, client, redis_settings)
        async with open_context(settings, runtime) as ctx:
            yield ctx


@pytest.fixture
async def bus(broker: MemoryBroker, ctx: Context) -> AsyncIterator[Bus]:
    """The gateway's; the scheduler listens."""
    async with MemoryBus.open(broker, "gateway", "g1") as bus:
        await ctx.bus.subscribe(handlers, ctx)
        yield bus


def act_for(organization: str, user: str = "u") -> None:
    """As the gateway does, in the task that asks: fixtures have tasks of their own."""
    actor.become(actor.Actor(organization_id=organization, user_id=user))
