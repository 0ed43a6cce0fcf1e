"""Limits on a real Redis, against a model in Python; and what happens to slots and totals when somebody dies."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

import pytest
import redis.asyncio as redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common.contracts.auth.identity import AppliedLimits, Limits
from libs.common.limits.checks import DAY, checks
from libs.common.limits.store import Decision, LimitStore, Seed
from libs.common.redis_client import open_redis
from libs.common.settings import RedisSettings

NOON = datetime(2100, 11, 21, 12, tzinfo=UTC).timestamp()
"""What Redis keeps until some time expires by its own clock: that must not have come."""

NOTHING_YET = Seed(0)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    async with open_redis(RedisSettings(url=redis_url)) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis) -> LimitStore:
    return LimitStore(client, NOON)


def applied(scope: str = "user", models: str = "*", **limits: int) -> AppliedLimits:
    return AppliedLimits.model_validate({"scope": scope, "id": uuid4().hex, "models": models, "limits": limits})


async def ask(store: LimitStore, limits: Sequence[AppliedLimits], tokens: int = 1, request_id: str = "") -> Decision:
    """Totals begin at zero. The request may take a minute."""
    assert store.now is not None
    found = checks(limits, "m", tokens, store.now)
    seeds = {check.key: NOTHING_YET for check in found if check.kind == "total"}
    return await store.admit(request_id or uuid4().hex, store.now + 60, found, seeds)


async def test_as_many_as_the_limit_in_any_minute(store: LimitStore) -> None:
    limits = [applied(requests_per_minute=3)]
    for second in (0.0, 20.5, 40.0):
        store.now = NOON + second
        assert not (await ask(store, limits)).refused
    [refused] = (await ask(store, limits)).refused
    assert (refused.left, refused.wait_seconds) == (0, 21)
    store.now = NOON + 61
    assert not (await ask(store, limits)).refused
    [refused] = (await ask(store, limits)).refused
    assert refused.wait_seconds == 20


async def test_what_one_limit_refuses_no_other_counts(store: LimitStore) -> None:
    roomy, narrow = applied(requests_per_minute=10, tokens_per_day=100), applied("key", requests_per_minute=1)
    await ask(store, [roomy, narrow], tokens=10)
    assert (await ask(store, [roomy, narrow], tokens=10)).refused
    assert [state.left for state in (await store.look(checks([roomy], "m", 0, NOON))).states] == [9, 90]


async def test_slots_are_freed_at_the_end_on_release_and_in_the_worst_case_by_time(store: LimitStore) -> None:
    limits = [applied(concurrent_streams=1)]
    assert not (await ask(store, limits, request_id="r")).refused
    assert (await ask(store, limits)).refused
    await store.settle({"r": 3})
    assert not (await ask(store, limits, request_id="s")).refused
    await store.release("s")
    assert not (await ask(store, limits)).refused
    store.now = NOON + 60
    assert (await ask(store, limits)).refused
    store.now = NOON + 71
    assert not (await ask(store, limits)).refused


async def test_the_real_count_replaces_the_estimate_once(store: LimitStore) -> None:
    limits = [applied(tokens_per_minute=100, tokens_per_day=1000, tokens_per_month=5000)]
    await ask(store, limits, tokens=50, request_id="less")
    await ask(store, limits, tokens=50, request_id="more")
    for _ in range(2):
        await store.settle({"less": 10, "more": 60, "unknown": 7})
    left = [state.left for state in (await store.look(checks(limits, "m", 0, NOON))).states]
    assert left == [30, 930, 4930]


async def test_a_request_sent_again_because_its_answer_was_lost_counts_once(store: LimitStore) -> None:
    limits = [applied(requests_per_minute=1, concurrent_streams=1, tokens_per_day=10)]
    for _ in range(3):
        assert not (await ask(store, limits, tokens=10, request_id="same")).refused


async def test_a_request_larger_than_a_limit_fits_when_nothing_else_is_used(store: LimitStore) -> None:
    limits = [applied(tokens_per_minute=10)]
    assert not (await ask(store, limits, tokens=500, request_id="large")).refused
    await store.settle({"large": 500})
    [refused] = (await ask(store, limits, tokens=1)).refused
    assert refused.wait_seconds == 61


async def test_totals_that_redis_does_not_know_begin_at_what_the_ledger_says(store: LimitStore) -> None:
    limits = [applied(tokens_per_day=100)]
    found = checks(limits, "m", 10, NOON)
    decision = await store.admit("first", NOON + 60, found)
    assert (decision.unknown, decision.refused) == (found, [])
    assert not (await store.admit("first", NOON + 60, found, {found[0].key: Seed(90)})).unknown
    assert (await store.admit("second", NOON + 60, found, {found[0].key: Seed(0)})).refused


async def test_a_new_day_and_a_new_month_begin_at_nothing(store: LimitStore) -> None:
    limits = [applied(tokens_per_day=10, tokens_per_month=15)]
    await ask(store, limits, tokens=10)
    [day] = (await ask(store, limits, tokens=5)).refused
    assert day.wait_seconds == 12 * 3600
    store.now = NOON + 86_400
    [month] = (await ask(store, limits, tokens=10)).refused
    assert month.wait_seconds == 8.5 * 86_400
    store.now = NOON + 10 * 86_400
    assert not (await ask(store, limits, tokens=10)).refused


async def test_two_gateways_at_once_admit_no_more_than_the_limit(redis_url: str) -> None:
    limits = [applied(requests_per_minute=50), applied("organization", concurrent_streams=20)]

    async def gateway() -> int:
        async with open_redis(RedisSettings(url=redis_url)) as client:
            store = LimitStore(client, NOON)
            decisions = await asyncio.gather(*(ask(store, limits) for _ in range(40)))
        return sum(not decision.refused for decision in decisions)

    assert sum(await asyncio.gather(gateway(), gateway())) == 20


async def test_redis_has_a_clock_of_its_own(client: redis.Redis) -> None:
    store, limits = LimitStore(client), [applied(requests_per_minute=1)]
    found = checks(limits, "m", 1, NOON)
    assert not (await store.admit(uuid4().hex, NOON, found)).refused
    [refused] = (await store.admit(uuid4().hex, NOON, found)).refused
    assert 55 < refused.wait_seconds <= 61


async def test_limits_of_models_count_for_models_that_match(store: LimitStore) -> None:
    limits = [applied("model", models, requests_per_minute=1) for models in ("Llama*", "other*", "llama3", "llama3:7b")]
    assert [check.applied.models for check in checks(limits, "llama3:latest", 1, NOON)] == ["Llama*", "llama3"]


@dataclass
class Model:
    """The same rules, written down as they are meant: every event is kept and looked at."""

    limits: Limits
    now: float = NOON
    requests: list[int] = field(default_factory=list)
    tokens: list[tuple[int, int]] = field(default_factory=list)
    streams: dict[str, float] = field(default_factory=dict)
    total: int = 0
    open: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """By request: the second it began in, its estimate of the minute's tokens and of the day's."""

    def admit(self, request_id: str, tokens: int) -> bool:
        limits, second = self.limits, math.floor(self.now)

        def recent(at: int) -> bool:
            return at + 61 > self.now

        cost = {most: min(tokens, most) for most in (limits.tokens_per_minute, limits.tokens_per_day) if most}
        by_second: dict[int, int] = defaultdict(int)
        for at, count in self.tokens:
            by_second[at] += count
        used = sum(count for at, count in by_second.items() if recent(at))
        self.streams = {name: until for name, until in self.streams.items() if until > self.now}
        fits = [
            limits.requests_per_minute is None or len(list(filter(recent, self.requests))) < limits.requests_per_minute,
            limits.tokens_per_minute is None or used + cost[limits.tokens_per_minute] <= limits.tokens_per_minute,
            limits.concurrent_streams is None or len(self.streams) < limits.concurrent_streams,
            limits.tokens_per_day is None or self.total + cost[limits.tokens_per_day] <= limits.tokens_per_day,
        ]
        if not all(fits):
            return False
        minute, day = cost.get(limits.tokens_per_minute or 0, 0), cost.get(limits.tokens_per_day or 0, 0)
        self.requests.append(second)
        self.tokens.append((second, minute))
        self.total += day
        self.streams[request_id] = self.now + 70
        self.open[request_id] = (second, minute, day)
        return True

    def settle(self, request_id: str, tokens: int) -> None:
        if request_id not in self.open:
            return
        second, minute, day = self.open.pop(request_id)
        self.streams.pop(request_id, None)
        self.total += tokens - day
        self.tokens.append((math.floor(self.now) if tokens > minute else second, tokens - minute))


limit = st.none() | st.integers(1, 12)
step = st.tuples(
    st.sampled_from("aaasr"), st.integers(0, 7), st.integers(0, 30), st.sampled_from([0, 0.4, 7, 30.2, 61])
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limits=st.builds(
        Limits,
        requests_per_minute=limit,
        tokens_per_minute=limit,
        concurrent_streams=limit,
        tokens_per_day=limit,
        tokens_per_month=st.none(),
    ),
    steps=st.lists(step, max_size=30),
)
async def test_as_the_model(redis_url: str, limits: Limits, steps: list[tuple[str, int, int, float]]) -> None:
    """Any requests, ends and releases at any times: the very same are admitted."""
    model, run = Model(limits), uuid4().hex
    whose = [AppliedLimits(scope="user", id=run, limits=limits)]
    async with open_redis(RedisSettings(url=redis_url)) as client:
        store = LimitStore(client, NOON)
        for number, (what, which, count, pause) in enumerate(steps):
            model.now += pause
            store.now = model.now
            request_id = f"{run}-{number if what == 'a' else which}"
            if what == "a":
                admitted = not (await ask(store, whose, count, request_id)).refused
                assert admitted == model.admit(request_id, count)
            elif what == "s":
                await store.settle({request_id: count})
                model.settle(request_id, count)
            else:
                await store.release(request_id)
                model.streams.pop(request_id, None)


async def test_nothing_is_kept_for_ever_of_a_day_that_ends_meanwhile(client: redis.Redis) -> None:
    """By the gateway's clock it is still yesterday; by Redis's own, what expires with that day is gone already."""
    limits = [applied(tokens_per_day=100)]
    assert not (await ask(LimitStore(client, time.time() - 2 * DAY), limits, tokens=10)).refused
    [key] = [key async for key in client.scan_iter(f"omx:limit:*{limits[0].id}")]
    assert 0 < await client.ttl(key) <= 60
