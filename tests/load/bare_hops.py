"""The floor: the hops of our design and nothing else.

HTTP -> RabbitMQ -> dispatcher -> RabbitMQ -> worker -> Redis -> HTTP, three processes. As in the suite: durable
messages, confirmed and acknowledged after the work; one Redis call per flush appends and publishes what all running
requests have produced meanwhile; one subscription for the whole HTTP process. Left out: identity, limits, scheduling,
fences, books, traces, metrics.

Started by ``targets.py`` as ``python -m tests.load.bare_hops http|dispatcher|worker``.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import redis.asyncio as redis
import uvicorn
import uvloop
from aio_pika import DeliveryMode, Message, connect
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from pamqp.common import FieldTable
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

REQUESTS: Final = "bare.requests"
RUNS: Final = "bare.runs"
CHANNEL: Final = "bare:frames"
ANSWER_SECONDS: Final = 30.0
QUEUE_ARGUMENTS: Final[dict[str, FieldTable]] = {
    REQUESTS: {"x-queue-type": "quorum", "x-expires": 60_000},
    RUNS: {"x-queue-type": "classic", "x-expires": 60_000},
}

# KEYS: one stream per frame. ARGV: channel, then per stream "1" if it ends and the frame.
APPEND: Final = r"""
local frames = {}
for i, key in ipairs(KEYS) do
  frames[i] = ARGV[2 * i + 1]
  redis.call('XADD', key, '*', 'frame', frames[i])
  if ARGV[2 * i] == '1' then redis.call('PEXPIRE', key, 3000) end
end
redis.call('PUBLISH', ARGV[1], '\221' .. struct.pack('>I4', #frames) .. table.concat(frames))
"""


class Options(msgspec.Struct):
    num_predict: int = 1


class Generate(msgspec.Struct):
    """What it understands of Ollama's ``POST /api/generate``; a model called ``<name>-<n>`` makes n tokens a second."""

    model: str
    options: Options


class Work(msgspec.Struct, array_like=True):
    request_id: str
    tokens: int
    tokens_per_second: int


class Frame(msgspec.Struct, array_like=True):
    request_id: str
    text: str
    done: bool


class Line(msgspec.Struct):
    response: str
    done: bool


@asynccontextmanager
async def opened_channel() -> AsyncIterator[AbstractChannel]:
    async with await connect(os.environ["RABBITMQ_URL"], timeout=10) as connection:
        channel = await connection.channel(publisher_confirms=True)
        for name in QUEUE_ARGUMENTS:
            await declare(channel, name)
        yield channel


async def declare(channel: AbstractChannel, name: str) -> AbstractQueue:
    return await channel.declare_queue(name, durable=True, arguments=QUEUE_ARGUMENTS[name])


async def send(channel: AbstractChannel, name: str, body: bytes) -> None:
    await channel.default_exchange.publish(Message(body, delivery_mode=DeliveryMode.PERSISTENT), name, timeout=5)


async def consume(name: str, handle: Callable[[AbstractChannel, bytes], Awaitable[None]]) -> None:
    """Until SIGTERM; each delivery is acknowledged after its work."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with opened_channel() as channel:

        async def on_message(message: AbstractIncomingMessage) -> None:
            await handle(channel, message.body)
            await message.ack()

        await channel.set_qos(prefetch_count=4096)
        await (await declare(channel, name)).consume(on_message)
        await stop.wait()


async def dispatcher() -> None:
    async def forward(channel: AbstractChannel, body: bytes) -> None:
        await send(channel, RUNS, body)

    await consume(REQUESTS, forward)


class Outbox:
    """What running requests have produced and Redis has not got yet."""

    def __init__(self, client: "redis.Redis") -> None:
        self._append = client.register_script(APPEND)
        self._frames: dict[str, Frame] = {}
        self._awake = asyncio.Event()
        self._flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def write(self, request_id: str, text: str, done: bool = False) -> "asyncio.Future[None]":
        frame = self._frames.setdefault(request_id, Frame(request_id, "", False))
        frame.text += text
        frame.done = done
        self._awake.set()
        return self._flushed

    async def run(self) -> None:
        encode = msgspec.msgpack.Encoder().encode
        while True:
            await self._awake.wait()
            self._awake.clear()
            frames, self._frames = self._frames, {}
            flushed, self._flushed = self._flushed, asyncio.get_running_loop().create_future()
            arguments: list[str | bytes] = [CHANNEL]
            for frame in frames.values():
                arguments += ("1" if frame.done else "0", encode(frame))
            await self._append([f"bare:log:{request_id}" for request_id in frames], arguments)
            flushed.set_result(None)


async def worker() -> None:
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    outbox = Outbox(client)
    decode = msgspec.json.Decoder(Work).decode

    async def produce(_: AbstractChannel, body: bytes) -> None:
        work, clock = decode(body), asyncio.get_running_loop().time
        began = clock()
        for i in range(work.tokens):
            due = began + (i + 1) / work.tokens_per_second if work.tokens_per_second else 0
            await asyncio.sleep(due - clock() if due else 0)
            outbox.write(work.request_id, f" w{i}" if i else "w0")
        await outbox.write(work.request_id, "", done=True)

    async with client:
        flushing = asyncio.create_task(outbox.run())
        try:
            await consume(RUNS, produce)
        finally:
            flushing.cancel()


class Door:
    """The HTTP side: sends work, and hands frames to whoever waits for them."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self._waiting: dict[str, asyncio.Queue[Frame]] = {}

    async def listen(self, subscription: "redis.client.PubSub") -> None:
        decode = msgspec.msgpack.Decoder(list[Frame]).decode
        async for message in subscription.listen():
            for frame in decode(message["data"]):
                if (frames := self._waiting.get(frame.request_id)) is not None:
                    frames.put_nowait(frame)

    async def generate(self, request: Request) -> Response:
        wanted = msgspec.json.decode(await request.body(), type=Generate)
        rate = wanted.model.rpartition("-")[2]
        work = Work(os.urandom(16).hex(), wanted.options.num_predict, int(rate) if rate.isdigit() else 0)
        frames = self._waiting[work.request_id] = asyncio.Queue()
        await send(self._channel, REQUESTS, msgspec.json.encode(work))
        return StreamingResponse(self._lines(work.request_id, frames), media_type="application/x-ndjson")

    async def _lines(self, request_id: str, frames: asyncio.Queue[Frame]) -> AsyncIterator[bytes]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                done = False
                while not done:
                    frame = await frames.get()
                    done = frame.done
                    yield msgspec.json.encode(Line(frame.text, done)) + b"\n"
        finally:
            del self._waiting[request_id]


@asynccontextmanager
async def open_door(_: Starlette) -> AsyncIterator[dict[str, Door]]:
    async with opened_channel() as channel, redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        subscription = client.pubsub(ignore_subscribe_messages=True)
        await subscription.subscribe(CHANNEL)
        door = Door(channel)
        listening = asyncio.create_task(door.listen(subscription))
        try:
            yield {"door": door}
        finally:
            listening.cancel()
            await subscription.aclose()  # type: ignore[no-untyped-call]


async def generate(request: Request) -> Response:
    door: Door = request.state.door
    return await door.generate(request)


def main(role: str) -> None:
    if role == "http":
        app = Starlette(routes=[Route("/api/generate", generate, methods=["POST"])], lifespan=open_door)
        uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False, log_level="warning")
    else:
        uvloop.run({"dispatcher": dispatcher, "worker": worker}[role]())


if __name__ == "__main__":
    main(sys.argv[1])
