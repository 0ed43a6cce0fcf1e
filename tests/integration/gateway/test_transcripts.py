"""What a gateway notes of a request: whose it is, and what was asked and answered where that is wanted."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import redis.asyncio as redis

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.inference import ChatMessage, InferenceTask, Kind
from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.scheduler.requests import Exchange, StoreExchange
from libs.common.contracts.tokens import Frame, StreamEnd, encode_frame
from libs.common.redis_client import open_redis
from libs.common.settings import RedisSettings
from libs.common.token_log.follower import LogFollower
from libs.common.token_log.store import Append, TokenLogStore
from services.gateway import inference, transcripts
from services.gateway.transcripts import LONGEST_PROMPT, is_exchange
from tests.fixtures.builders import a_model, an_identity
from tests.fixtures.gateway import Gateway, a_gateway

PROMPT = "a prompt that is found nowhere else"
CHAT = InferenceTask(kind="chat", messages=(ChatMessage(role="user", content=PROMPT, images=("aW1hZ2U=",)),))


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    async with open_redis(RedisSettings(url=redis_url)) as client:
        yield client


@pytest.fixture
async def gateway(client: redis.Redis, redis_url: str) -> AsyncIterator[Gateway]:
    """On a real Redis; its requests are answered with two words."""
    settings = RedisSettings(url=redis_url, finished_log_ttl_seconds=5)
    async with a_gateway() as gateway:
        tasks = gateway.ctx.tasks
        async with LogFollower.open(client, settings, "g1", tasks.start) as follower:
            token_log = TokenLogStore(client, settings)
            gateway.ctx = replace(gateway.ctx, redis=client, follower=follower, token_log=token_log)
            gateway.bus.answers[RequestInference] = lambda request: tasks.start(answer(token_log, request), "worker")
            yield gateway


async def answer(token_log: TokenLogStore, request: RequestInference, words: tuple[str, ...] = ("Hel", "lo")) -> None:
    frames = [Frame(request.request_id, 1, seq, word) for seq, word in enumerate(words, 1)]
    frames.append(Frame(request.request_id, 1, len(words) + 1, end=StreamEnd()))
    append = Append(request.request_id, 1, 1, True, [encode_frame(frame) for frame in frames])
    await token_log.append(request.channel, [append])


async def exchange_of(gateway: Gateway, caller: Identity, task: InferenceTask) -> Exchange | None:
    """Run it to its end; what is sent to be kept."""
    sent: asyncio.Queue[StoreExchange] = asyncio.Queue()
    gateway.bus.answers[StoreExchange] = sent.put_nowait
    stream = await inference.start(gateway.ctx, caller, a_model(), task)
    assert "".join([frame.text async for frame in stream]) == "Hello"
    await stream.aclose()
    if not caller.stores_prompts:
        return None if sent.empty() else (await sent.get()).exchange
    command = await asyncio.wait_for(sent.get(), 10)
    assert (command.request_id, command.organization_id, command.user_id) == (stream.request_id, "o", "u")
    return command.exchange


async def test_where_it_is_wanted_it_is_sent_without_images(gateway: Gateway) -> None:
    exchange = await exchange_of(gateway, an_identity(stores_prompts=True), CHAT)
    assert exchange is not None
    assert [(message.role, message.content) for message in exchange.messages] == [("user", PROMPT)]
    assert (exchange.answer, exchange.truncated) == ("Hello", False)
    assert "aW1hZ2U=" not in exchange.model_dump_json()


async def test_where_it_is_not_wanted_nothing_of_it_stays(gateway: Gateway, client: redis.Redis) -> None:
    assert await exchange_of(gateway, an_identity(), CHAT) is None
    assert StoreExchange not in gateway.bus.asked
    values = [await client.dump(key) async for key in client.scan_iter()]
    assert values
    assert not any(PROMPT.encode() in value for value in values if value)


async def test_a_long_exchange_keeps_its_latest_messages(gateway: Gateway) -> None:
    messages = (
        ChatMessage(role="user", content="first"),
        ChatMessage(role="assistant", content="x" * LONGEST_PROMPT),
        ChatMessage(role="user", content="last"),
    )
    exchange = await exchange_of(
        gateway, an_identity(stores_prompts=True), InferenceTask(kind="chat", messages=messages)
    )
    assert exchange is not None
    assert [message.content[:5] for message in exchange.messages] == ["xxxxx", "last"]
    assert sum(len(message.content) for message in exchange.messages) == LONGEST_PROMPT
    assert exchange.truncated


async def test_a_long_answer_is_cut(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcripts, "LONGEST_ANSWER", 3)
    exchange = await exchange_of(
        gateway, an_identity(stores_prompts=True), InferenceTask(kind="generate", prompt="p", system="s")
    )
    assert exchange is not None
    assert (exchange.answer, exchange.truncated) == ("Hel", True)
    assert [message.role for message in exchange.messages] == ["system", "user"]


def test_what_no_model_answers_is_no_exchange() -> None:
    kinds: tuple[Kind, ...] = ("chat", "generate", "embed", "load", "tokenize", "detokenize", "rerank")
    kept = [kind for kind in kinds if is_exchange(InferenceTask(kind=kind))]
    assert kept == ["chat", "generate", "embed", "rerank"]
    assert not is_exchange(CHAT.model_copy(update={"debug_render_only": True}))


async def test_whose_it_is(gateway: Gateway) -> None:
    stream = await inference.start(gateway.ctx, an_identity(key_id="k"), a_model(), CHAT, priority="batch")
    assert [frame async for frame in stream]
    (card,) = await gateway.ctx.token_log.cards([stream.request_id])
    await stream.aclose()
    assert card is not None
    assert (card.organization_id, card.user_id, card.key_id, card.priority) == ("o", "u", "k", "batch")
