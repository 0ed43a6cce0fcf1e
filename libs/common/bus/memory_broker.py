"""A broker in one process's memory: what our topology uses of RabbitMQ, with the same outcome.

Queues know prefetch, single active consumers, message TTL, the delivery limit and where dead letters go; a consumer
that goes away gives back what it held.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from libs.common.bus.envelope import Envelope
from libs.common.bus.topology import DEAD, DEFAULT, RETRY_DELAYS_SECONDS, Listener, Queue, dead_queue, retry_queue
from libs.common.bus.transport import OnDelivery


class MemoryBroker:
    """Shared by the buses that talk to each other."""

    def __init__(self, retry_delays: Sequence[float] = RETRY_DELAYS_SECONDS) -> None:
        self.replies: dict[str, asyncio.Future[Envelope]] = {}
        self._queues: dict[str, MemoryQueue] = {}
        for queue in (dead_queue(), *map(retry_queue, retry_delays)):
            self._declare(queue)

    @property
    def dead(self) -> list[Envelope]:
        return self._queues[DEAD].waiting

    def publish(self, envelope: Envelope, exchange: str, routing_key: str) -> bool:
        """False if no queue takes it. A copy for each queue that does."""
        bound = [queue for queue in self._queues.values() if queue.takes(exchange, routing_key)]
        for queue in bound:
            queue.put(envelope, routing_key)
        return bool(bound)

    def consume(self, listener: Listener, on_delivery: OnDelivery) -> "Consumer":
        queue = self._declare(listener.queue)
        consumer = Consumer(queue, listener.prefetch, on_delivery)
        queue.consumers.append(consumer)
        queue.deliver()
        return consumer

    def cancel(self, consumer: "Consumer") -> None:
        """It gets nothing more, and keeps what it holds."""
        queue = consumer.queue
        if consumer not in queue.consumers:
            return
        queue.consumers.remove(consumer)
        if queue.spec.exclusive:
            del self._queues[queue.spec.name]
        queue.deliver()

    def disconnect(self, consumer: "Consumer") -> None:
        held = [incoming.entry for incoming in consumer.held]
        consumer.held.clear()
        consumer.gone = True
        self.cancel(consumer)
        consumer.queue.put_back(held)

    def _declare(self, spec: Queue) -> "MemoryQueue":
        return self._queues.setdefault(spec.name, MemoryQueue(self, spec))


@dataclass(eq=False)
class Consumer:
    """``held``: delivered to it and not settled. ``gone``: with its connection."""

    queue: "MemoryQueue"
    prefetch: int
    on_delivery: OnDelivery
    held: "set[MemoryIncoming]" = field(default_factory=set)
    gone: bool = False


@dataclass(eq=False)
class _Entry:
    """``position`` is its place in the queue, which it keeps when it comes back; so does its expiry (loop time)."""

    envelope: Envelope
    routing_key: str
    position: int
    expires_at: float
    deliveries: int = 0


class MemoryIncoming:
    """One delivery; see ``transport.Incoming``."""

    def __init__(self, consumer: Consumer, entry: _Entry) -> None:
        self.envelope = entry.envelope
        self.redelivered = entry.deliveries > 1
        self.settled = False
        self.entry = entry
        self._consumer = consumer

    @property
    def lost(self) -> bool:
        return self._consumer.gone

    async def ack(self) -> None:
        if self._settle():
            self._consumer.queue.deliver()

    async def nack(self, *, requeue: bool) -> None:
        if not self._settle():
            return
        if requeue:
            self._consumer.queue.put_back([self.entry])
        else:
            self._consumer.queue.give_up(self.entry, "rejected")

    def _settle(self) -> bool:
        """False if it was settled before, or was taken away because its consumer is gone."""
        self.settled = True
        if self not in self._consumer.held:
            return False
        self._consumer.held.remove(self)
        return True


class MemoryQueue:
    def __init__(self, broker: MemoryBroker, spec: Queue) -> None:
        self.spec = spec
        self.consumers: list[Consumer] = []
        self._broker = broker
        self._ready: list[_Entry] = []
        self._arrived = 0

    @property
    def waiting(self) -> list[Envelope]:
        return [entry.envelope for entry in self._ready]

    def takes(self, exchange: str, routing_key: str) -> bool:
        if exchange == DEFAULT:
            return self.spec.name == routing_key
        fanout = self.spec.routing_key == ""
        return self.spec.exchange == exchange and (fanout or self.spec.routing_key == routing_key)

    def put(self, envelope: Envelope, routing_key: str) -> None:
        loop = asyncio.get_running_loop()
        ttls = (self.spec.arguments.get("x-message-ttl"), envelope.expires_in_ms)
        ttl_ms = min((ms for ms in ttls if ms is not None), default=float("inf"))
        self._arrived += 1
        entry = _Entry(envelope, routing_key, self._arrived, loop.time() + ttl_ms / 1000)
        self._ready.append(entry)
        if ttl_ms < float("inf"):
            loop.call_at(entry.expires_at, self._expire)
        self.deliver()

    def put_back(self, entries: Iterable[_Entry]) -> None:
        for entry in entries:
            if entry.deliveries > self.spec.arguments.get("x-delivery-limit", entry.deliveries):
                self.give_up(entry, "delivery_limit")
            else:
                self._ready.append(entry)
        self._ready.sort(key=lambda entry: entry.position)
        self._expire()
        self.deliver()

    def give_up(self, entry: _Entry, reason: str) -> None:
        arguments = self.spec.arguments
        if "x-dead-letter-exchange" in arguments:
            history: dict[str, Any] = {"x-first-death-queue": self.spec.name, "x-first-death-reason": reason}
            key = arguments.get("x-dead-letter-routing-key", entry.routing_key)
            self._broker.publish(entry.envelope.with_headers(history), arguments["x-dead-letter-exchange"], key)
        self.deliver()

    def deliver(self) -> None:
        while self._ready and (consumer := self._free_consumer()) is not None:
            entry = self._ready.pop(0)
            entry.deliveries += 1
            incoming = MemoryIncoming(consumer, entry)
            consumer.held.add(incoming)
            consumer.on_delivery(incoming)

    def _free_consumer(self) -> Consumer | None:
        single_active = self.spec.arguments.get("x-single-active-consumer")
        candidates = self.consumers[:1] if single_active else self.consumers
        free = [consumer for consumer in candidates if len(consumer.held) < consumer.prefetch]
        return min(free, key=lambda consumer: len(consumer.held), default=None)

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        expired = [entry for entry in self._ready if entry.expires_at <= now]
        self._ready = [entry for entry in self._ready if entry.expires_at > now]
        for entry in expired:
            self.give_up(entry, "expired")
