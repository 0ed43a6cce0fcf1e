"""One connection to RabbitMQ with everything that lives and dies with it: channels, consumers, awaited replies."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, cast

import aiormq
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import AMQPError, ConnectionClosed, DeliveryError, PublishError
from pamqp.commands import Basic
from pamqp.exceptions import PAMQPException
from yarl import URL

from libs.common.bus.envelope import Envelope
from libs.common.bus.topology import DEFAULT, EXCHANGES, Listener, Queue, dead_queue, retry_queue
from libs.common.bus.transport import OnDelivery
from libs.common.errors import Unavailable

BROKER_SECONDS: Final = 10.0
"""Nothing we ask of the broker takes longer; setting up a whole connection is one step."""

REPLY_TO: Final = "amq.rabbitmq.reply-to"
"""Direct reply-to: a pseudo queue of the channel that asks. Nothing to declare, nothing to clean up."""

LOST = (AMQPError, PAMQPException, OSError, EOFError, RuntimeError)
"""How a lost connection or channel shows, depending on what aiormq was doing. A ``TimeoutError`` is an ``OSError``."""


class ConnectionLost(Exception):
    """The connection or one of its channels is gone; whether the broker got the last message is unknown."""


@contextmanager
def one_error() -> Iterator[None]:
    """Turn each of ``LOST`` into ``ConnectionLost``, and so the ``CancelledError`` of a task that nobody cancelled:
    aiormq ends its waiters with it."""
    try:
        yield
    except LOST as error:
        raise ConnectionLost(f"{type(error).__name__}: {error}") from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ConnectionLost("closed") from None


@asynccontextmanager
async def broker_step() -> AsyncIterator[None]:
    with one_error():
        async with asyncio.timeout(BROKER_SECONDS):
            yield


class _Connection(aiormq.Connection):
    HEARTBEAT_GRACE_MULTIPLIER = 2  # as the broker does; three by default


class Session:
    """``failed`` is set as soon as any part of it is lost; then it is good for nothing but ``aclose``."""

    def __init__(self, url: URL, on_failed: Callable[[], None]) -> None:
        self.failed = asyncio.Event()
        self._on_failed = on_failed
        self._connection = _Connection(url)
        self._consumers: dict[str, tuple[Queue, aiormq.Channel, str]] = {}
        self._replies: dict[str, asyncio.Future[Envelope | None]] = {}

    async def open(self, retry_delays: Sequence[float]) -> None:
        """Connect and declare what all services share. Raises ``ConnectionLost``."""
        async with broker_step():
            await self._connection.connect()
            self._connection.closing.add_done_callback(self._lost)
            self._asking = await self._channel(publisher_confirms=True)
            # The answer to a query is not worth a confirm: its asker has a timeout.
            self._answering = await self._channel(publisher_confirms=False)
            await _declare_shared(self._asking, retry_delays)
            await self._asking.basic_consume(REPLY_TO, self._on_reply, no_ack=True)

    async def aclose(self) -> None:
        self.fail()
        with suppress(ConnectionLost):
            async with broker_step():
                if self._connection.is_opened:
                    # aiormq drops what it has not written yet; any answer now means that the last acks are out.
                    await self._channel(publisher_confirms=False)
                await self._connection.close(ConnectionClosed(320, "closed by us"))

    def fail(self) -> None:
        if self.failed.is_set():
            return
        self.failed.set()
        self._on_failed()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_result(None)

    async def publish(self, envelope: Envelope, exchange: str, routing_key: str, *, mandatory: bool) -> None:
        """Returns when the broker confirmed it. Raises ``ConnectionLost``, ``Unavailable`` if it was refused."""
        with one_error():
            try:
                await self._asking.basic_publish(
                    envelope.body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=_properties(envelope),
                    mandatory=mandatory,
                    wait=False,
                )
            except PublishError:
                raise Unavailable(f"nobody takes {routing_key}") from None
            except DeliveryError:
                raise Unavailable(f"RabbitMQ refused a message for {routing_key}") from None

    async def request(self, envelope: Envelope, exchange: str, routing_key: str) -> Envelope:
        key = envelope.correlation_id or envelope.message_id
        reply: asyncio.Future[Envelope | None] = asyncio.get_running_loop().create_future()
        self._replies[key] = reply
        try:
            await self.publish(envelope, exchange, routing_key, mandatory=True)
            if (answer := await reply) is None:
                raise ConnectionLost("no way back for the answer")
            return answer
        finally:
            del self._replies[key]

    async def reply(self, to: str, answer: Envelope) -> None:
        async with broker_step():
            await self._answering.basic_publish(
                answer.body, exchange=DEFAULT, routing_key=to, properties=_properties(answer), wait=False
            )

    async def consume(self, listener: Listener, on_delivery: OnDelivery) -> None:
        """Once per queue; asking again does nothing."""
        queue = listener.queue
        if queue.name in self._consumers:
            return

        async def deliver(message: DeliveredMessage) -> None:
            on_delivery(RabbitIncoming(message, settled=queue.exclusive))

        async with broker_step():
            # A channel each, so that each has its own prefetch without the broker's global one.
            channel = await self._channel(publisher_confirms=False)
            channel.on_consumer_cancel_callbacks.add(self._lost)
            await channel.basic_qos(prefetch_count=listener.prefetch)
            await _declare(channel, queue)
            # A replica's own copies of events die with it anyway: not worth an acknowledgement each.
            consumer = await channel.basic_consume(queue.name, deliver, no_ack=queue.exclusive)
            assert consumer.consumer_tag is not None
            self._consumers[queue.name] = queue, channel, consumer.consumer_tag

    async def take(self, queue: str) -> "RabbitIncoming | None":
        """The next message without consuming; back in its place when the session closes, unless acknowledged."""
        async with broker_step():
            message = await self._answering.basic_get(queue)
        return None if message.delivery_tag is None else RabbitIncoming(message)

    async def stop_consuming(self) -> None:
        consumers = list(self._consumers.values())
        async with broker_step():
            for queue, channel, tag in consumers:
                if not queue.exclusive:
                    await channel.basic_cancel(tag)

    async def _channel(self, *, publisher_confirms: bool) -> aiormq.Channel:
        channel = cast(aiormq.Channel, await self._connection.channel(publisher_confirms=publisher_confirms))
        channel.closing.add_done_callback(self._lost)
        return channel

    def _lost(self, _reason: object) -> None:
        self.fail()

    async def _on_reply(self, message: DeliveredMessage) -> None:
        reply = self._replies.get(message.header.properties.correlation_id or "")
        if reply is not None and not reply.done():
            reply.set_result(envelope_of(message))


class RabbitIncoming:
    """One delivery; see ``transport.Incoming``."""

    __slots__ = ("_channel", "_tag", "envelope", "redelivered", "settled")

    def __init__(self, message: DeliveredMessage, *, settled: bool = False) -> None:
        self.envelope = envelope_of(message)
        self.redelivered = bool(message.redelivered)
        self.settled = settled
        self._channel = message.channel
        self._tag = message.delivery_tag or 0

    @property
    def lost(self) -> bool:
        return self._channel.is_closed

    async def ack(self) -> None:
        if self._first_time():
            async with _quietly():
                await self._channel.basic_ack(self._tag, wait=False)

    async def nack(self, *, requeue: bool) -> None:
        if self._first_time():
            async with _quietly():
                await self._channel.basic_nack(self._tag, requeue=requeue, wait=False)

    def _first_time(self) -> bool:
        """To settle one delivery twice would close the channel of all."""
        first, self.settled = not self.settled, True
        return first


@asynccontextmanager
async def _quietly() -> AsyncIterator[None]:
    with suppress(ConnectionLost):
        async with broker_step():
            yield


def envelope_of(message: DeliveredMessage) -> Envelope:
    properties = message.header.properties
    return Envelope(
        type=properties.message_type or "",
        body=message.body,
        message_id=properties.message_id or "",
        headers=dict(properties.headers or {}),
        durable=properties.delivery_mode == 2,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        sent_at=properties.timestamp,
    )


def _properties(envelope: Envelope) -> Basic.Properties:
    return Basic.Properties(
        content_type="application/json",
        headers=envelope.headers,
        delivery_mode=2 if envelope.durable else 1,
        correlation_id=envelope.correlation_id,
        reply_to=envelope.reply_to,
        expiration=None if envelope.expires_in_ms is None else str(envelope.expires_in_ms),
        message_id=envelope.message_id,
        timestamp=envelope.sent_at,
        message_type=envelope.type,
    )


async def _declare_shared(channel: aiormq.Channel, retry_delays: Sequence[float]) -> None:
    for name, kind in EXCHANGES.items():
        await channel.exchange_declare(name, exchange_type=kind, durable=True)
    for delay in sorted(set(retry_delays)):
        queue = retry_queue(delay)
        await channel.exchange_declare(queue.exchange, exchange_type="fanout", durable=True)
        await _declare(channel, queue)
    await _declare(channel, dead_queue())


async def _declare(channel: aiormq.Channel, queue: Queue) -> None:
    await channel.queue_declare(
        queue.name,
        durable=not queue.exclusive,
        exclusive=queue.exclusive,
        auto_delete=queue.exclusive,
        arguments=dict(queue.arguments),
    )
    await channel.queue_bind(queue.name, queue.exchange, routing_key=queue.routing_key)
