"""Limits at the gateway's doors, counted in a real Redis: who is refused, in which words, when a slot is free."""

import asyncio
import json
import time
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import redis.asyncio as redis

from libs.common.contracts.auth.identity import AppliedLimits, Identity, Limits, VerifyKey
from libs.common.contracts.auth.usage import CountTokens
from libs.common.contracts.gateway import InferenceCancelled
from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.tokens import Frame, encode_frame
from libs.common.errors import Unavailable
from libs.common.limits.store import Decision, LimitStore
from libs.common.token_log.store import Append, card_key
from services.gateway import inference
from services.gateway.estimate import Estimate
from services.gateway.limits import Limiter
from tests.fixtures.answering import Answering
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import Gateway
from tests.fixtures.suite import eventually

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "options": {"num_predict": 10}}


def limited(**limits: int) -> Identity:
    user = uuid4().hex
    applied = AppliedLimits(scope="user", id=f"o/{user}", limits=Limits.model_validate(limits))
    return an_identity(user_id=user, limits=(applied,))


def calling(gateway: Gateway, caller: Identity) -> httpx.AsyncClient:
    """With a key that is this caller's."""
    gateway.bus.answers[VerifyKey] = lambda _query: caller
    return gateway.client(authorization=f"Bearer omx_{uuid4().hex}")


@pytest.mark.usefixtures("worker")
async def test_answers_tell_what_is_left_and_refusals_when_to_come_again(gateway: Gateway) -> None:
    async with calling(gateway, limited(requests_per_minute=2)) as http:
        answers = [await http.post("/api/chat", json=HELLO) for _ in range(3)]
        platform = await http.post("/api/v1/inference/chat", json=HELLO)
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    refused = answers[2]
    assert refused.headers["ratelimit-limit"] == "2"
    assert refused.headers["ratelimit-policy"] == '2;w=60;comment="requests of the user"'
    assert 55 <= int(refused.headers["retry-after"]) <= 61
    assert refused.headers["ratelimit-reset"] == refused.headers["retry-after"]
    assert refused.json()["error"].startswith("limit reached: 2 requests per minute for this user; try again in")
    assert platform.status_code == 429
    assert platform.json()["error"]["code"] == "rate_limited"


@pytest.mark.usefixtures("worker")
async def test_who_has_no_limits_is_told_of_none(gateway: Gateway) -> None:
    gateway.ctx = replace(gateway.ctx, limits=Limiter(gateway.ctx.bus, LimitStore(redis.Redis(port=1))))
    async with calling(gateway, an_identity()) as http:
        answer = await http.post("/api/chat", json=HELLO)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("ratelimit")]


async def test_who_has_limits_is_refused_while_redis_is_away(gateway: Gateway) -> None:
    gateway.ctx = replace(gateway.ctx, limits=Limiter(gateway.ctx.bus, LimitStore(redis.Redis(port=1))))
    async with calling(gateway, limited(requests_per_minute=2)) as http:
        assert (await http.post("/api/chat", json=HELLO)).status_code == 503


async def test_a_slot_is_free_when_the_answer_is_complete(gateway: Gateway, worker: Answering) -> None:
    worker.may_end.clear()
    caller = limited(concurrent_streams=1)
    stream = await inference.start(gateway.ctx, caller, gateway.models["m:latest"], InferenceTask(kind="chat"))
    frames = aiter(stream)
    await anext(frames)
    async with calling(gateway, caller) as http:
        assert (await http.post("/api/chat", json=HELLO)).status_code == 429
        counting = Estimate(0, 0, is_stream=False)
        assert await gateway.ctx.limits.admit(caller, "m:latest", counting, uuid4().hex, time.time() + 60) is None
        worker.may_end.set()
        assert (await anext(frames)).end is not None
        for _ in range(3):
            assert (await http.post("/api/chat", json=HELLO)).status_code == 200
    await stream.aclose()


async def test_who_goes_away_leaves_a_free_slot(gateway: Gateway, worker: Answering) -> None:
    worker.may_end.clear()
    caller = limited(concurrent_streams=1)
    model = gateway.models["m:latest"]
    stream = await inference.start(gateway.ctx, caller, model, InferenceTask(kind="chat"))
    await anext(aiter(stream))
    await stream.aclose()

    async def is_free() -> bool:
        return [state.left for state in await gateway.ctx.limits.left(caller)] == [1]

    await eventually(is_free, "the slot is free")


class Forgetful(LimitStore):
    """Its Redis loses the month while the ledger is asked for the day."""

    asked = 0

    async def admit(self, request_id: str, deadline: float, checks: Any, seeds: Any = None) -> Decision:
        self.asked += 1
        if self.asked == 2:
            await self._client.delete(checks[1].key)
        return await super().admit(request_id, deadline, checks, seeds)


async def test_nothing_is_admitted_uncounted_while_redis_forgets(gateway: Gateway, client: redis.Redis) -> None:
    gateway.bus.answers[CountTokens] = lambda query: tuple(7 for _ in query.spans)
    gateway.ctx = replace(gateway.ctx, limits=Limiter(gateway.ctx.bus, forgetful := Forgetful(client)))
    caller = limited(tokens_per_day=100, tokens_per_month=1000)
    day, _month = await gateway.ctx.limits.left(caller)
    await client.delete(day.check.key)
    expected = Estimate(prompt=3, answer=2)
    assert await gateway.ctx.limits.admit(caller, "m", expected, uuid4().hex, time.time() + 60) is not None
    assert forgetful.asked == 3
    assert [state.left for state in await gateway.ctx.limits.left(caller)] == [88, 988]


class Blank(LimitStore):
    """Whatever it is told, it does not know."""

    async def admit(self, request_id: str, deadline: float, checks: Any, seeds: Any = None) -> Decision:
        return Decision([], [], checks)


async def test_who_cannot_be_counted_is_refused(gateway: Gateway, client: redis.Redis) -> None:
    limits = Limiter(gateway.ctx.bus, Blank(client))
    with pytest.raises(Unavailable):
        await limits.admit(
            limited(tokens_per_day=100), "m", Estimate(prompt=3, answer=2), uuid4().hex, time.time() + 60
        )


async def cards(client: redis.Redis) -> set[bytes]:
    return {key async for key in client.scan_iter(card_key("*"))}


async def test_what_was_never_sent_costs_nothing(gateway: Gateway, client: redis.Redis) -> None:
    caller = limited(concurrent_streams=1, tokens_per_minute=1000)
    before = await cards(client)
    with pytest.raises(Unavailable):
        await inference.start(gateway.ctx, caller, gateway.models["m:latest"], InferenceTask(kind="chat"))

    async def is_free() -> bool:
        return [state.left for state in await gateway.ctx.limits.left(caller)] == [1000, 1]

    async def no_card_is_left() -> bool:
        return await cards(client) <= before

    await eventually(is_free, "nothing is counted")
    await eventually(no_card_is_left, "nothing says whose it was")


class Deaf(LimitStore):
    """Its caller never hears the answer."""

    counted: asyncio.Event

    async def admit(self, *args: Any, **kwargs: Any) -> Decision:
        await super().admit(*args, **kwargs)
        self.counted.set()
        never: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        return await never


async def test_who_goes_away_while_it_is_admitted_leaves_a_free_slot(gateway: Gateway, client: redis.Redis) -> None:
    deaf = Deaf(client)
    deaf.counted = asyncio.Event()
    gateway.ctx = replace(gateway.ctx, limits=Limiter(gateway.ctx.bus, deaf))
    caller = limited(concurrent_streams=1, requests_per_minute=5)
    model, task = gateway.models["m:latest"], InferenceTask(kind="chat")
    starting = asyncio.create_task(inference.start(gateway.ctx, caller, model, task))
    await deaf.counted.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    async def is_free() -> bool:
        return [state.left for state in await gateway.ctx.limits.left(caller)] == [4, 1]

    await eventually(is_free, "the slot is free")


@pytest.mark.usefixtures("worker")
async def test_real_tokens_are_counted(gateway: Gateway) -> None:
    caller = limited(tokens_per_minute=100)
    async with calling(gateway, caller) as http:
        assert (await http.post("/api/chat", json=HELLO)).headers["ratelimit-remaining"] == "88"
    assert [state.left for state in await gateway.ctx.limits.left(caller)] == [94]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("used", "status"), [(99, 429), (0, 200)])
async def test_a_day_that_redis_forgot_goes_on_as_the_ledger_says(gateway: Gateway, used: int, status: int) -> None:
    asked: list[Any] = []

    def count(query: CountTokens) -> tuple[int, ...]:
        asked.append(query)
        return tuple(used for _ in query.spans)

    gateway.bus.answers[CountTokens] = count
    caller = limited(tokens_per_day=100, tokens_per_month=1000)
    async with calling(gateway, caller) as http:
        for _ in range(2):
            assert (await http.post("/api/chat", json=HELLO)).status_code == status
    [query] = asked
    assert [(span.user_id, span.key_id) for span in query.spans] == [(caller.user_id, None)] * 2


async def test_a_day_that_runs_out_ends_the_answer(gateway: Gateway, worker: Answering) -> None:
    worker.may_end.clear()
    gateway.bus.answers[CountTokens] = lambda query: tuple(100 for _ in query.spans)
    caller = limited(tokens_per_day=103, concurrent_streams=1)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 1}}

    async def says_much(request: RequestInference) -> None:
        for seq in range(1, 6):
            frame = Frame(request.request_id, 1, seq, "word ", token_ids=[seq])
            await gateway.ctx.token_log.append(
                request.channel, [Append(request.request_id, 1, seq, False, [encode_frame(frame)])]
            )

    gateway.bus.answers[RequestInference] = lambda request: gateway.ctx.tasks.start(says_much(request), "answer")
    async with calling(gateway, caller) as http:
        lines = (await http.post("/api/chat", json=body)).text.splitlines()
    assert len(lines) == 3, "two tokens were left beside the prompt's one"
    assert json.loads(lines[-1])["error"].startswith("limit reached: 103 tokens per day for this user")

    async def is_over() -> bool:
        streams = [state.left for state in await gateway.ctx.limits.left(caller) if state.check.kind == "streams"]
        return streams == [1] and any(isinstance(event, InferenceCancelled) for event in gateway.bus.published)

    await eventually(is_over, "it is cancelled and its slot is free")


@pytest.mark.usefixtures("worker")
async def test_a_new_day_begins_also_while_auth_is_away(gateway: Gateway, client: redis.Redis) -> None:
    caller = limited(tokens_per_day=100)
    async with calling(gateway, caller) as http:
        assert (await http.post("/api/chat", json=HELLO)).status_code == 200
    [key] = [key async for key in client.scan_iter(f"*{caller.user_id}")]
    assert 0 < await client.ttl(key) <= 61
