"""How an answer is read on, or cancelled, by those who may: from a token log in Redis, and its card."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
import redis.asyncio as redis

from libs.common import actor
from libs.common.contracts.auth.identity import Identity, VerifyKey
from libs.common.contracts.gateway import InferenceCancelled
from libs.common.contracts.scheduler.requests import GetRequest, RequestDetails
from libs.common.contracts.tokens import (
    Frame,
    Logprob,
    StreamEnd,
    StreamError,
    TopLogprob,
    Usage,
    encode_frame,
    pack_vector,
)
from libs.common.settings import RedisSettings
from libs.common.token_log.store import Append, Card, TokenLogStore, card_key
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import Gateway, a_gateway

ID = "0123456789abcdef" * 2
PATH = f"/api/v1/inference/requests/{ID}"


def caller(gateway: Gateway, identity: Identity) -> httpx.AsyncClient:
    gateway.bus.answers[VerifyKey] = lambda _query: identity
    return gateway.client(authorization="Bearer omx_k")


@pytest.fixture
def token_log(client: redis.Redis, redis_url: str) -> TokenLogStore:
    return TokenLogStore(client, RedisSettings(url=redis_url, finished_log_ttl_seconds=60))


@pytest.fixture
async def reading(token_log: TokenLogStore) -> AsyncIterator[Gateway]:
    """Knows the log of a request of user u in organization o."""
    card = Card("o", "u", "", "m:latest", "chat", "interactive", 1.0, time.time() + 60)
    await token_log.write_card(ID, card)
    frames = [Frame(ID, 1, 1, "Hel"), Frame(ID, 1, 2, "lo"), Frame(ID, 1, 3, "!", end=StreamEnd("stop", Usage(5, 3)))]
    await token_log.append("", [Append(ID, 1, 1, True, [encode_frame(frame) for frame in frames])])
    async with a_gateway(transfers_per_caller=1) as gateway:
        gateway.ctx = replace(gateway.ctx, token_log=token_log)
        yield gateway


async def test_reading_on(reading: Gateway) -> None:
    async with caller(reading, an_identity()) as http:
        answer = await http.get(f"{PATH}/stream", params={"after": 1})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.text.splitlines()] == [
        {"seq": 2, "text": "lo", "done": False},
        {"seq": 3, "text": "!", "done": True, "done_reason": "stop", "prompt_tokens": 5, "completion_tokens": 3},
    ]


async def test_everything_of_an_answer_is_read_on(reading: Gateway, token_log: TokenLogStore) -> None:
    whole = "a" * 32
    await token_log.write_card(whole, Card("o", "u", "", "m:latest", "chat", "batch", 1.0, time.time() + 60))
    call = {"function": {"name": "f", "arguments": {}}}
    token = Logprob("x", -0.5, b"x", [TopLogprob("y", -1.0, b"y")])
    end = StreamEnd("stop", Usage(5, 3), context=[7], embeddings=[pack_vector([0.5])], rendered="<p>")
    frames = [
        Frame(whole, 1, 1, thinking="hm", logprobs=[token]),
        Frame(whole, 1, 2, tool_calls=[call]),
        Frame(whole, 1, 3, end=end),
    ]
    await token_log.append("", [Append(whole, 1, 1, True, [encode_frame(frame) for frame in frames])])
    async with caller(reading, an_identity()) as http:
        lines = (await http.get(f"/api/v1/inference/requests/{whole}/stream")).text.splitlines()
    first, second, last = map(json.loads, lines)
    shown = {"token": "x", "logprob": -0.5, "bytes": [120]}
    assert (first["thinking"], first["logprobs"]) == (
        "hm",
        [{**shown, "top_logprobs": [{"token": "y", "logprob": -1.0, "bytes": [121]}]}],
    )
    assert second["tool_calls"] == [call]
    assert (last["context"], last["embeddings"], last["rendered"]) == ([7], [[0.5]], "<p>")


STRANGERS = [an_identity(user_id="v"), an_identity(organization_id="p"), an_identity(models=(("other*",),))]


@pytest.mark.parametrize("stranger", [*STRANGERS, an_identity("admin", user_id="v")])
async def test_nobody_else_reads_an_answer(reading: Gateway, stranger: Identity) -> None:
    async with caller(reading, stranger) as http:
        assert (await http.get(f"{PATH}/stream")).status_code == 404


async def test_nobody_reads_on_too_much_at_once(reading: Gateway) -> None:
    async with caller(reading, an_identity()) as http:
        with actor.acting(actor.Actor(organization_id="o", user_id="u")), reading.ctx.transfers.one_more(1):
            assert (await http.get(f"{PATH}/stream")).status_code == 429
        for _ in range(2):
            assert (await http.get(f"{PATH}/stream")).status_code == 200


async def test_a_key_that_may_only_run_inference_reads_its_answer(reading: Gateway) -> None:
    async with caller(reading, an_identity(permissions=frozenset({"inference:run"}))) as http:
        assert (await http.get(f"{PATH}/stream")).status_code == 200


async def test_an_unknown_answer(reading: Gateway) -> None:
    async with caller(reading, an_identity()) as http:
        assert (await http.get(f"/api/v1/inference/requests/{'0' * 32}/stream")).status_code == 404


async def test_an_answer_that_failed(reading: Gateway, token_log: TokenLogStore) -> None:
    failed = "f" * 32
    await token_log.write_card(failed, Card("o", "u", "", "m:latest", "chat", "batch", 1.0, time.time() + 60))
    end = StreamEnd("error", error=StreamError("engine_failed", "the engine failed"))
    await token_log.append("", [Append(failed, 1, 1, True, [encode_frame(Frame(failed, 1, 1, end=end))])])
    async with caller(reading, an_identity()) as http:
        line = (await http.get(f"/api/v1/inference/requests/{failed}/stream")).json()
    assert (line["done"], line["error"]) == (True, {"code": "engine_failed", "message": "the engine failed"})


async def test_who_asked_cancels_and_so_does_who_manages_requests(reading: Gateway) -> None:
    for somebody in (an_identity(), an_identity("operator", user_id="v")):
        async with caller(reading, somebody) as http:
            assert (await http.delete(PATH)).status_code == 204
        assert reading.bus.published.pop() == InferenceCancelled(request_id=ID)


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_nobody_else_cancels(reading: Gateway, stranger: Identity) -> None:
    async with caller(reading, stranger) as http:
        assert (await http.delete(PATH)).status_code == 404
    assert reading.bus.published == []


async def test_what_has_ended_and_is_forgotten_is_not_cancelled(reading: Gateway, client: redis.Redis) -> None:
    ended = RequestDetails(id=ID, status="done", kind="chat", model="m:latest", accepted_at=1.0)
    asked: list[GetRequest] = []

    def journal(query: GetRequest) -> RequestDetails:
        asked.append(query)
        return ended

    reading.bus.answers[GetRequest] = journal
    await client.delete(card_key(ID))
    async with caller(reading, an_identity()) as http:
        assert (await http.delete(PATH)).status_code == 204
    assert (asked, reading.bus.published) == ([GetRequest(request_id=ID, user_id="u")], [])
