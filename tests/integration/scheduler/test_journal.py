"""The journal settles what the gateway of a request could not: it died with its stream."""

import time
from uuid import uuid4

from libs.common.contracts.auth.identity import AppliedLimits, Limits
from libs.common.database import Database
from libs.common.limits.checks import checks
from libs.common.limits.store import LimitStore, Seed
from libs.common.redis_client import open_redis
from libs.common.settings import RedisSettings
from services.scheduler.journal import open_journal
from tests.fixtures.batches import written
from tests.fixtures.builders import an_end


async def test_slots_and_tokens_of_a_gateway_that_died(scheduler_db: Database, redis_url: str) -> None:
    limits = Limits(concurrent_streams=1, tokens_per_day=100)
    applied = AppliedLimits(scope="user", id=uuid4().hex, limits=limits)
    found = checks([applied], "m", 50, time.time())
    async with open_redis(RedisSettings(url=redis_url)) as client:
        store, event = LimitStore(client), an_end()
        await store.admit(event.request_id, time.time() + 60, found, {found[1].key: Seed(0)})
        delivered_twice = [event, event]
        assert await written(open_journal(scheduler_db, store, 10), delivered_twice) == ["ack", "ack"]
        assert [state.left for state in (await store.look(found)).states] == [1, 88]
