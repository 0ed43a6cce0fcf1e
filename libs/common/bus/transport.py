"""The seam below the bus: what a broker does. RabbitMQ behind it in production, one process's memory in unit tests."""

from collections.abc import Callable
from typing import Protocol

from libs.common.bus.envelope import Envelope
from libs.common.bus.topology import Listener


class Incoming(Protocol):
    """One delivery. To settle it twice, or when its connection is gone, does nothing: the broker redelivers."""

    @property
    def envelope(self) -> Envelope: ...

    @property
    def redelivered(self) -> bool: ...

    @property
    def settled(self) -> bool: ...

    @property
    def lost(self) -> bool:
        """Its connection is gone."""

    async def ack(self) -> None: ...

    async def nack(self, *, requeue: bool) -> None:
        """``requeue`` puts it back at its place; otherwise it goes where its queue sends dead letters."""


OnDelivery = Callable[[Incoming], None]


class Transport(Protocol):
    async def publish(self, envelope: Envelope, exchange: str, routing_key: str, *, mandatory: bool) -> None:
        """Returns when the broker has it safely. Raises ``Unavailable`` if it did not say so in time, or,
        if ``mandatory``, when no queue takes it."""

    async def request(self, envelope: Envelope, exchange: str, routing_key: str) -> Envelope:
        """Publish and wait for the reply, for ever: the caller knows how long. ``Unavailable`` when none can come."""

    async def reply(self, request: Envelope, answer: Envelope) -> None:
        """Nobody may be waiting any more; then it is dropped."""

    async def consume(self, listener: Listener, on_delivery: OnDelivery) -> None:
        """Declare the queue and consume from it, now and after every reconnect."""

    async def stop_consuming(self) -> None:
        """From all queues but exclusive ones."""

    @property
    def connected(self) -> bool: ...

    @property
    def connections(self) -> int: ...
