"""The bus within one process, for unit tests: no server, the same behaviour, checked by the same tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

from libs.common.bus.core import MessageBus
from libs.common.bus.envelope import Envelope
from libs.common.bus.memory_broker import Consumer, MemoryBroker
from libs.common.bus.topology import RETRY_DELAYS_SECONDS, Listener
from libs.common.bus.transport import OnDelivery
from libs.common.errors import Unavailable

__all__ = ["MemoryBroker", "MemoryBus"]


class MemoryBus(MessageBus):
    disconnect: Callable[[], None]
    """What the death of a process looks like from outside: all it held goes back to its queues."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        broker: MemoryBroker,
        service: str,
        instance: str,
        *,
        retry_delays: Sequence[float] = RETRY_DELAYS_SECONDS,
    ) -> AsyncIterator["MemoryBus"]:
        transport = _MemoryTransport(broker)
        bus = cls(transport, instance, retry_delays)
        bus.disconnect = transport.close
        try:
            yield bus
        finally:
            await bus.close()
            bus.disconnect()


class _MemoryTransport:
    """Implements ``transport.Transport``: one process's connection to the broker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._consumers: list[Consumer] = []
        self.connected = True
        self.connections = 1

    async def publish(self, envelope: Envelope, exchange: str, routing_key: str, *, mandatory: bool) -> None:
        if not self.connected:
            raise Unavailable("the bus is closed")
        if not self._broker.publish(envelope, exchange, routing_key) and mandatory:
            raise Unavailable(f"nobody takes {routing_key}")

    async def request(self, envelope: Envelope, exchange: str, routing_key: str) -> Envelope:
        address = uuid4().hex
        reply: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        self._broker.replies[address] = reply
        try:
            await self.publish(replace(envelope, reply_to=address), exchange, routing_key, mandatory=True)
            return await reply
        finally:
            del self._broker.replies[address]

    async def reply(self, request: Envelope, answer: Envelope) -> None:
        reply = self._broker.replies.get(request.reply_to or "")
        if reply is not None and not reply.done():
            reply.set_result(answer)

    async def consume(self, listener: Listener, on_delivery: OnDelivery) -> None:
        self._consumers.append(self._broker.consume(listener, on_delivery))

    async def stop_consuming(self) -> None:
        for consumer in self._consumers:
            if not consumer.queue.spec.exclusive:
                self._broker.cancel(consumer)

    def close(self) -> None:
        self.connected = False
        for consumer in self._consumers:
            self._broker.disconnect(consumer)
