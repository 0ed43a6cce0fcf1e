"""How we connect to Redis, on a real one."""

import asyncio

from libs.common.redis_client import MOST_CONNECTIONS, open_redis
from libs.common.settings import RedisSettings


async def test_who_finds_all_connections_busy_waits_for_one(redis_url: str) -> None:
    async with open_redis(RedisSettings(url=redis_url)) as client:
        answers = await asyncio.gather(*(client.incr("omx:test:many") for _ in range(5 * MOST_CONNECTIONS)))
        await client.delete("omx:test:many")
    assert sorted(answers) == list(range(1, 5 * MOST_CONNECTIONS + 1))
