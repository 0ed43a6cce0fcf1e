"""A gateway that did not start a request reads its log, wherever the caller stopped reading."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import redis.asyncio as redis

from libs.common.contracts.tokens import Frame, StreamEnd, encode_frame
from libs.common.errors import DeadlineExceeded, StreamLost, Unavailable
from libs.common.redis_client import open_redis
from libs.common.settings import RedisSettings
from libs.common.token_log import tail as tail_module
from libs.common.token_log.store import Append, Card, TokenLogStore, card_key, log_key
from libs.common.token_log.tail import tail


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    async with open_redis(RedisSettings(url=redis_url)) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis, redis_url: str) -> TokenLogStore:
    return TokenLogStore(client, RedisSettings(url=redis_url, finished_log_ttl_seconds=5))


@pytest.fixture
def request_id() -> str:
    return uuid4().hex


async def say(
    store: TokenLogStore, request_id: str, *words: str, epoch: int = 1, first: int = 1, end: bool = False
) -> None:
    last = first + len(words) - 1
    frames = [
        Frame(request_id, epoch, seq, word, end=StreamEnd() if end and seq == last else None)
        for seq, word in enumerate(words, first)
    ]
    await store.append("", [Append(request_id, epoch, first, end, [encode_frame(frame) for frame in frames])])


async def read(store: TokenLogStore, request_id: str, after: int = 0, seconds: float = 20) -> list[str]:
    return [frame.text async for frame in tail(store, request_id, after, time.time() + seconds)]


@pytest.mark.parametrize(("after", "expected"), [(0, ["a", "b", "c"]), (1, ["b", "c"]), (2, ["c"]), (3, []), (9, [])])
async def test_what_was_said_after(store: TokenLogStore, request_id: str, after: int, expected: list[str]) -> None:
    await say(store, request_id, "a", "b", "c", end=True)
    assert await read(store, request_id, after) == expected


async def test_what_is_said_meanwhile(store: TokenLogStore, request_id: str) -> None:
    reading = asyncio.create_task(read(store, request_id, 1))
    await say(store, request_id, "a", "b")
    await store.raise_epoch(request_id, 2)
    await say(store, request_id, "c", epoch=2, first=3, end=True)
    assert await reading == ["b", "c"]


async def test_a_log_that_begins_again_in_other_cuts_is_an_error(
    store: TokenLogStore, client: redis.Redis, request_id: str
) -> None:
    await say(store, request_id, "a", "b")
    frames = tail(store, request_id, 0, time.time() + 20)
    assert (await anext(frames)).text == "a"
    assert (await anext(frames)).text == "b"
    await client.delete(log_key(request_id))
    await say(store, request_id, "ab", epoch=2)
    with pytest.raises(StreamLost):
        await anext(frames)


async def test_a_log_that_does_not_come_back_is_an_error(
    store: TokenLogStore, client: redis.Redis, request_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "LOST_SECONDS", 0.1)
    await say(store, request_id, "a")
    frames = tail(store, request_id, 0, time.time() + 20)
    assert (await anext(frames)).text == "a"
    await client.delete(log_key(request_id))
    with pytest.raises(StreamLost):
        await anext(frames)


async def test_a_request_that_never_ends_has_a_deadline(
    store: TokenLogStore, request_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "GRACE_SECONDS", 0.1)
    with pytest.raises(DeadlineExceeded):
        await read(store, request_id, seconds=0)


async def test_an_answer_that_is_still_kept_is_read_after_its_deadline_too(
    store: TokenLogStore, request_id: str
) -> None:
    await say(store, request_id, "a", "b", end=True)
    assert await read(store, request_id, seconds=-100) == ["a", "b"]


async def test_without_redis_it_says_so(request_id: str) -> None:
    nowhere = RedisSettings(url="redis://127.0.0.1:1/0")
    client = redis.Redis.from_url(nowhere.url.get_secret_value())
    with pytest.raises(Unavailable):
        await read(TokenLogStore(client, nowhere), request_id)


async def test_a_card_goes_with_the_log_of_its_request(
    store: TokenLogStore, client: redis.Redis, request_id: str
) -> None:
    card = Card("o", "u", "", "echo", "chat", "interactive", 1.5, time.time() + 600)
    await store.write_card(request_id, card)
    assert await store.cards([request_id, "unknown"]) == [card, None]
    assert await client.ttl(card_key(request_id)) > 600
    await say(store, request_id, "a", end=True)
    assert await client.ttl(card_key(request_id)) <= 5


async def test_a_card_that_is_late_does_not_outlive_the_log(
    store: TokenLogStore, client: redis.Redis, request_id: str
) -> None:
    await say(store, request_id, "a", end=True)
    await store.write_card(request_id, Card("o", "u", "", "echo", "chat", "interactive", 1.5, time.time() + 600))
    assert 0 < await client.pttl(card_key(request_id)) <= 5000
