"""How we connect to Redis: one place for timeouts and retries."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from libs.common.settings import RedisSettings


@asynccontextmanager
async def open_redis(settings: RedisSettings) -> AsyncIterator[redis.Redis]:
    """A pool of connections that answers within five seconds or raises, and rides out a restart of a second or two."""
    client = redis.Redis.from_url(
        settings.url.get_secret_value(),
        socket_timeout=5,
        socket_connect_timeout=2,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 6),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
        protocol=2,
    )
    try:
        await client.ping()
        yield client
    finally:
        await client.aclose()
