"""How we connect to Redis and run scripts in it: one place for timeouts and retries."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeoutError

from libs.common.settings import RedisSettings

MOST_CONNECTIONS = 100


@asynccontextmanager
async def open_redis(settings: RedisSettings) -> AsyncIterator[redis.Redis]:
    """A pool of connections that answers within five seconds or raises, and rides out a restart of a second or two.

    Who finds all of them busy waits for one: very many ask at once when a worker is lost.
    """
    pool = redis.BlockingConnectionPool.from_url(
        settings.url.get_secret_value(),
        max_connections=MOST_CONNECTIONS,
        timeout=5,
        socket_timeout=5,
        socket_connect_timeout=2,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 6),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
        protocol=2,
    )
    client = redis.Redis.from_pool(pool)
    try:
        await client.ping()
        yield client
    finally:
        await client.aclose()


class Script:
    """A Lua script, which Redis runs as one step."""

    def __init__(self, file: Path) -> None:
        self._text = file.read_text()
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: "redis.Redis", keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        try:
            return await client.evalsha(self._sha, len(keys), *keys, *arguments)
        except NoScriptError:  # a new or restarted Redis
            return await client.eval(self._text, len(keys), *keys, *arguments)
