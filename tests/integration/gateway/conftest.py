from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis

from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.redis_client import open_redis
from libs.common.settings import RedisSettings
from tests.fixtures.answering import Answering, a_following_gateway
from tests.fixtures.gateway import Gateway


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    async with open_redis(RedisSettings(url=redis_url)) as client:
        yield client


@pytest.fixture
async def gateway(client: redis.Redis, redis_url: str) -> AsyncIterator[Gateway]:
    async with a_following_gateway(client, redis_url) as gateway:
        yield gateway


@pytest.fixture
def worker(gateway: Gateway) -> Answering:
    worker = Answering(gateway.ctx.token_log)
    gateway.bus.answers[RequestInference] = lambda request: gateway.ctx.tasks.start(worker.answer(request), "answer")
    return worker
