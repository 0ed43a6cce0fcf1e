"""The token log on a real Redis: order, fences, repairs and what survives a Redis that forgot everything."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import redis.asyncio as redis
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from yarl import URL

from libs.common.contracts.tokens import Frame, Logprob, Queued, StreamEnd, encode_frame
from libs.common.errors import DeadlineExceeded, StreamLost
from libs.common.redis_client import open_redis
from libs.common.settings import RedisSettings
from libs.common.tasks import Tasks
from libs.common.token_log import follower as follower_module
from libs.common.token_log.follower import Following, LogFollower
from libs.common.token_log.store import Append, Status, TokenLogStore, log_key
from libs.common.token_log.writer import Fenced, LogWriter
from tests.fixtures.suite import eventually
from tests.fixtures.tcp_proxy import Proxy

PATIENCE = 120
"""Seconds that a log is kept which is read slowly."""


@pytest.fixture
def settings(redis_url: str) -> RedisSettings:
    return RedisSettings(url=redis_url, finished_log_ttl_seconds=5)


@pytest.fixture
async def client(settings: RedisSettings) -> AsyncIterator[redis.Redis]:
    async with open_redis(settings) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis, settings: RedisSettings) -> TokenLogStore:
    return TokenLogStore(client, settings)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await tasks.cancel_all()


@pytest.fixture
async def writer(store: TokenLogStore, tasks: Tasks) -> LogWriter:
    writer = LogWriter(store)
    tasks.start(writer.run(), "writer")
    return writer


@pytest.fixture
async def follower(client: redis.Redis, settings: RedisSettings, tasks: Tasks) -> AsyncIterator[LogFollower]:
    async with LogFollower.open(client, settings, uuid4().hex, tasks.start) as follower:
        yield follower


@pytest.fixture
def request_id() -> str:
    return uuid4().hex


def frames(request_id: str, epoch: int, *numbers: int) -> list[bytes]:
    return [encode_frame(Frame(request_id, epoch, number, text=f"{number} ")) for number in numbers]


async def append(store: TokenLogStore, request_id: str, epoch: int, *numbers: int, final: bool = False) -> Status:
    appends = [Append(request_id, epoch, numbers[0], final, frames(request_id, epoch, *numbers))]
    return (await store.append("", appends))[0].status


async def append_to(
    store: TokenLogStore, channel: str, request_id: str, numbers: Sequence[int], *, final: bool
) -> None:
    await store.append(channel, [Append(request_id, 1, numbers[0], final, frames(request_id, 1, *numbers))])


async def text_of(store: TokenLogStore, request_id: str) -> str:
    return "".join(entry.frame.text for entry in await store.read(request_id) if entry.frame)


async def collect(following: Following) -> str:
    text = ""
    while True:
        frame = await asyncio.wait_for(following.next(), timeout=20)
        text += frame.text
        if frame.end is not None:
            return text


class TestStore:
    async def test_frames_are_read_in_order(self, store: TokenLogStore, request_id: str) -> None:
        assert await append(store, request_id, 1, 1, 2) is Status.OK
        assert await append(store, request_id, 1, 3) is Status.OK
        assert await text_of(store, request_id) == "1 2 3 "

    async def test_a_repeated_append_writes_nothing_twice(self, store: TokenLogStore, request_id: str) -> None:
        await append(store, request_id, 1, 1, 2)
        assert await append(store, request_id, 1, 1, 2, 3) is Status.OK
        assert await text_of(store, request_id) == "1 2 3 "

    async def test_a_lower_epoch_is_fenced(self, store: TokenLogStore, request_id: str) -> None:
        await append(store, request_id, 1, 1)
        raised = await store.raise_epoch(request_id, 2)
        assert (raised.status, raised.last_seq) == (Status.OK, 1)
        assert await append(store, request_id, 1, 2) is Status.FENCED
        assert await append(store, request_id, 2, 2) is Status.OK
        assert await text_of(store, request_id) == "1 2 "

    async def test_an_epoch_is_raised_once(self, store: TokenLogStore, request_id: str) -> None:
        assert (await store.raise_epoch(request_id, 2)).status is Status.OK
        again = await store.raise_epoch(request_id, 2)
        assert (again.status, again.last_epoch) == (Status.FENCED, 2)

    async def test_nothing_follows_the_end(self, store: TokenLogStore, request_id: str) -> None:
        assert await append(store, request_id, 1, 1, 2, final=True) is Status.OK
        assert await append(store, request_id, 1, 1, 2, final=True) is Status.OK, "the answer to the first was lost"
        assert await append(store, request_id, 1, 3) is Status.ENDED
        assert (await store.raise_epoch(request_id, 2)).status is Status.ENDED

    async def test_what_a_fenced_attempt_wrote_into_a_lost_log_is_not_taken_for_that_of_the_next(
        self, store: TokenLogStore, client: redis.Redis, request_id: str
    ) -> None:
        await append(store, request_id, 1, 1, 2)
        await store.raise_epoch(request_id, 2)
        await client.delete(log_key(request_id))  # and the mark with it
        assert await append(store, request_id, 1, 1, 2, 3) is Status.OK
        assert await append(store, request_id, 2, 3, 4) is Status.FENCED
        assert (await store.raise_epoch(request_id, 3)).last_seq == 3
        assert await append(store, request_id, 3, 4) is Status.OK
        assert await text_of(store, request_id) == "1 2 3 4 "

    async def test_a_gap_is_told(self, store: TokenLogStore, request_id: str) -> None:
        assert await append(store, request_id, 1, 2) is Status.GAP

    async def test_a_finished_log_expires_soon(
        self, store: TokenLogStore, client: redis.Redis, request_id: str
    ) -> None:
        await append(store, request_id, 1, 1)
        assert await client.ttl(log_key(request_id)) > 60
        await append(store, request_id, 1, 2, final=True)
        assert 0 < await client.ttl(log_key(request_id)) <= 5


class TestWriterAndFollower:
    async def test_thinking_and_what_follows_it_are_not_mixed(
        self, writer: LogWriter, store: TokenLogStore, request_id: str
    ) -> None:
        call = {"id": "call_1", "function": {"index": 0, "name": "f", "arguments": {}}}
        request_log, _ = await writer.open(request_id, 1, "")
        request_log.write("", (), "let me")
        request_log.write("", (), " see", logprobs=[Logprob(" see", -1.0)])
        request_log.write("so")
        request_log.write("", tool_calls=[call])
        await request_log.finish(StreamEnd())
        first, second, last = [entry.frame for entry in await store.read(request_id) if entry.frame]
        assert (first.thinking, first.text, first.logprobs) == ("let me see", "", [Logprob(" see", -1.0)])
        assert (second.thinking, second.text, second.tool_calls) == ("", "so", [call])
        assert (last.text, last.tool_calls, last.end) == ("", [], StreamEnd())

    @pytest.mark.parametrize(
        "piece",
        [
            {"text": ["no text"]},
            {"text": "", "thinking": ["no text"]},
            {"text": "", "tool_calls": [{"number": 2**64}]},
            {"text": "", "tool_calls": [{"character": "\ud800"}]},
        ],
        ids=str,
    )
    async def test_what_cannot_be_written_ends_its_own_request_and_no_other(
        self, writer: LogWriter, store: TokenLogStore, piece: dict[str, Any]
    ) -> None:
        (bad, _), (good, _) = await writer.open(uuid4().hex, 1, ""), await writer.open(uuid4().hex, 1, "")
        bad.write("so ")
        good.write("so ")
        with pytest.raises((TypeError, OverflowError, UnicodeEncodeError)):
            bad.write(**piece)
        good.write("far")
        async with asyncio.timeout(20):
            await good.finish(StreamEnd())
            await bad.finish(StreamEnd("error"))
        assert await text_of(store, good.request_id) == "so far"

    async def test_an_attempt_whose_log_was_lost_and_written_by_a_fenced_one_gives_up(
        self, writer: LogWriter, store: TokenLogStore, client: redis.Redis, request_id: str
    ) -> None:
        frozen, _ = await writer.open(request_id, 1, "")
        frozen.write("one ")
        await frozen.flush()
        await store.raise_epoch(request_id, 2)
        second, _ = await writer.open(request_id, 2, "")
        await client.delete(log_key(request_id))
        frozen.write("two ")
        await frozen.flush()
        second.write("TWO ")
        with pytest.raises(Fenced):
            await asyncio.wait_for(second.finish(StreamEnd()), 20)
        assert await text_of(store, request_id) == "one two "

    async def test_who_reads_slowly_takes_no_memory_and_gets_everything(
        self, store: TokenLogStore, client: redis.Redis, follower: LogFollower, request_id: str
    ) -> None:
        count, batch = 20_000, 1000
        slow, quick_id = follower.follow(request_id, time.time() + 120), uuid4().hex
        quick = follower.follow(quick_id, time.time() + 120)
        for first in range(1, count + 1, batch):
            numbers = range(first, first + batch)
            await append_to(store, follower.channel, request_id, numbers, final=first + batch > count)
        await client.expire(log_key(request_id), PATIENCE)
        await append_to(store, follower.channel, quick_id, [1], final=True)
        assert (await asyncio.wait_for(quick.next(), 20)).seq == 1, "nobody else waits for who is slow"
        assert len(slow) <= follower_module.MOST_WAITING
        assert [(await asyncio.wait_for(slow.next(), 20)).seq for _ in range(count)] == list(range(1, count + 1))

    async def test_who_is_behind_sees_the_end_of_a_log_that_goes_on(
        self, store: TokenLogStore, follower: LogFollower, request_id: str
    ) -> None:
        following = follower.follow(request_id, time.time() + 60)

        async def produce() -> None:
            for first in range(1, 4001, 40):
                await append_to(store, follower.channel, request_id, range(first, first + 40), final=first + 40 > 4000)

        producing = asyncio.create_task(produce())
        seen: list[int] = []
        while len(seen) < 4000:
            seen.append((await asyncio.wait_for(following.next(), 20)).seq)
            if len(seen) % 400 == 0:
                await asyncio.sleep(0.01)  # slower than the producer, by fits and starts
        assert seen == list(range(1, 4001))
        await producing

    async def test_that_a_request_waits_is_told_but_is_no_frame(
        self, client: redis.Redis, follower: LogFollower, store: TokenLogStore, request_id: str
    ) -> None:
        following = follower.follow(request_id, time.time() + 30)
        notice = Frame(request_id, 0, 0, queued=Queued(3, 1.5))
        await client.publish(follower.channel, msgspec.msgpack.encode([notice]))
        await append_to(store, follower.channel, request_id, [1], final=True)
        assert (await asyncio.wait_for(following.next(), 20)).seq == 1
        assert following.queued == Queued(3, 1.5)

    async def test_many_requests_arrive_whole(self, writer: LogWriter, follower: LogFollower) -> None:
        async def one(number: int) -> None:
            request_id = f"{uuid4().hex}-{number}"
            following = follower.follow(request_id, time.time() + 30)
            log, _ = await writer.open(request_id, 1, follower.channel)
            for token in range(50):
                log.write(f"{number}.{token} ", [token])
                await asyncio.sleep(0)
            await log.finish(StreamEnd())
            assert await collect(following) == "".join(f"{number}.{token} " for token in range(50))

        await asyncio.gather(*(one(number) for number in range(20)))

    async def test_a_later_attempt_goes_on_where_the_first_stopped(
        self, writer: LogWriter, follower: LogFollower, store: TokenLogStore, request_id: str
    ) -> None:
        following = follower.follow(request_id, time.time() + 30)
        first, _ = await writer.open(request_id, 1, follower.channel)
        first.write("one ", [1])
        assert (await asyncio.wait_for(following.next(), 5)).text == "one "
        await store.raise_epoch(request_id, 2)
        first.write("lost ", [9])
        second, history = await writer.open(request_id, 2, follower.channel)
        assert [frame.token_ids for frame in history] == [[1]]
        second.write("two ", [2])
        await second.finish(StreamEnd())
        with pytest.raises(Fenced):
            await first.finish(StreamEnd())
        assert await collect(following) == "two "

    async def test_frames_missed_by_the_subscription_are_read_from_the_stream(
        self, follower: LogFollower, store: TokenLogStore, request_id: str
    ) -> None:
        following = follower.follow(request_id, time.time() + 30)
        await append(store, request_id, 1, 1, 2)
        last = Append(request_id, 1, 3, True, [encode_frame(Frame(request_id, 1, 3, text="3", end=StreamEnd()))])
        await store.append(follower.channel, [last])
        assert await collect(following) == "1 2 3"

    async def test_a_subscription_that_died_without_a_word_is_made_again(
        self,
        client: redis.Redis,
        settings: RedisSettings,
        tasks: Tasks,
        request_id: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(follower_module, "PING_SECONDS", 0.1)
        monkeypatch.setattr(follower_module, "SILENCE_BEFORE_FIRST_SECONDS", 1000.0)
        url = URL(settings.url.get_secret_value())
        async with Proxy(url.host or "", url.port or 6379).running() as proxy:
            through = settings.model_copy(
                update={"url": SecretStr(str(url.with_host("127.0.0.1").with_port(proxy.port)))}
            )
            async with LogFollower.open(client, through, uuid4().hex, tasks.start) as follower:
                proxy.forget()

                async def subscribed_again() -> bool:
                    [(_, subscribers)] = await client.pubsub_numsub(follower.channel)
                    return bool(subscribers == 2)  # Redis does not know that the first is gone

                await eventually(subscribed_again, "it has noticed")
                following = follower.follow(request_id, time.time() + 60)
                append = Append(request_id, 1, 1, False, frames(request_id, 1, 1))
                await TokenLogStore(client, settings).append(follower.channel, [append])
                assert (await asyncio.wait_for(following.next(), timeout=20)).text == "1 "

    async def test_a_lost_log_is_written_again(
        self, writer: LogWriter, follower: LogFollower, client: redis.Redis, store: TokenLogStore, request_id: str
    ) -> None:
        following = follower.follow(request_id, time.time() + 30)
        log, _ = await writer.open(request_id, 1, follower.channel)
        log.write("one ")
        assert (await asyncio.wait_for(following.next(), 5)).text == "one "
        await client.delete(log_key(request_id))
        log.write("two ")
        await log.finish(StreamEnd())
        assert await collect(following) == "two "
        assert await text_of(store, request_id) == "one two "

    async def test_a_silent_request_ends_at_its_deadline(self, follower: LogFollower, request_id: str) -> None:
        following = follower.follow(request_id, time.time() + 0.1)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(following.next(), timeout=10)

    @pytest.mark.parametrize("ends", [True, False])
    async def test_who_reads_slowly_gets_an_answer_that_was_complete_before_its_deadline(
        self, store: TokenLogStore, client: redis.Redis, follower: LogFollower, request_id: str, *, ends: bool
    ) -> None:
        count, deadline = 3 * follower_module.MOST_WAITING, time.time() + 2
        slow, silent = follower.follow(request_id, deadline), follower.follow(uuid4().hex, deadline)
        await append_to(store, follower.channel, request_id, range(1, count + 1), final=ends)
        await client.expire(log_key(request_id), PATIENCE)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(silent.next(), 20)  # so it has passed
        assert slow.is_behind
        assert [(await asyncio.wait_for(slow.next(), 20)).seq for _ in range(count)] == list(range(1, count + 1))
        if not ends:
            with pytest.raises(DeadlineExceeded):
                await asyncio.wait_for(slow.next(), 20)

    async def test_who_is_behind_while_redis_is_away_ends_at_its_deadline(
        self, follower: LogFollower, request_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def away(_following: object) -> int:
            raise RedisConnectionError

        monkeypatch.setattr(follower, "_read_on", away)
        behind = follower.follow(request_id, time.time() + 0.5)
        behind.is_behind = True
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(behind.next(), 20)

    async def test_frames_that_cannot_be_read_end_nothing_but_their_own_answer(
        self, follower: LogFollower, store: TokenLogStore, request_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(follower_module, "SILENCE_BEFORE_FIRST_SECONDS", 0.1)
        bad, good = follower.follow(request_id, time.time() + 60), follower.follow(uuid4().hex, time.time() + 60)
        frame = msgspec.msgpack.encode([request_id, 1, 1, "a", [], "", [], None, [["a", None]]])
        [outcome] = await store.append(follower.channel, [Append(request_id, 1, 1, False, [frame])])
        assert outcome.status is Status.OK
        await append_to(store, follower.channel, good.request_id, [1], final=True)
        assert (await asyncio.wait_for(good.next(), 20)).seq == 1
        with pytest.raises(StreamLost):
            await asyncio.wait_for(bad.next(), 20)

    async def test_a_new_attempt_on_a_lost_log_is_an_error_and_never_wrong_text(
        self, writer: LogWriter, follower: LogFollower, client: redis.Redis, store: TokenLogStore, request_id: str
    ) -> None:
        following = follower.follow(request_id, time.time() + 30)
        log, _ = await writer.open(request_id, 1, follower.channel)
        log.write("one ")
        assert (await asyncio.wait_for(following.next(), 5)).text == "one "
        await client.delete(log_key(request_id))
        await store.raise_epoch(request_id, 2)
        again, history = await writer.open(request_id, 2, follower.channel)
        assert history == []
        again.write("ONE ")
        await again.finish(StreamEnd())
        with pytest.raises(StreamLost):
            await asyncio.wait_for(following.next(), 5)
