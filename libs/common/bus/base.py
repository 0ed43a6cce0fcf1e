"""The bus as services see it: three verbs to speak, one registry of handlers to listen.

``RabbitBus`` and ``MemoryBus`` implement the same protocol and pass the same tests.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, TypeVar

from libs.common.contracts.message import Command, Event, Message, Query

R = TypeVar("R")
M = TypeVar("M", bound=Message)


class Ack(Enum):
    """When a delivery is acknowledged."""

    AFTER = "after the handler returned"
    MANUAL = "when the handler calls Delivery.ack or Delivery.reject"


class Delivery(Protocol):
    """One message as it was delivered, for handlers that acknowledge by hand."""

    @property
    def message_id(self) -> str: ...

    @property
    def redelivered(self) -> bool: ...

    @property
    def attempt(self) -> int:
        """1 for the first time, one more for each retry."""

    @property
    def lost(self) -> bool:
        """The connection it came through is gone: the broker gives it to somebody again, who may be another process."""

    async def ack(self) -> None:
        """Done. Does nothing when the connection it came through is gone: the broker redelivers by itself."""

    async def requeue(self) -> None:
        """Hand it back, to be delivered again to anybody at once."""

    async def reject(self, reason: str) -> None:
        """Never deliver it again: it goes to the dead letters with this reason."""


Handler = Callable[[Any, Any], Awaitable[Any]]
ManualHandler = Callable[[Any, Any, Delivery], Awaitable[None]]


@dataclass(frozen=True)
class Subscription:
    """One ``@handlers.on``: which message, which function, and how it is delivered."""

    message: type[Message]
    handler: Callable[..., Awaitable[Any]]
    ack: Ack = Ack.AFTER
    every_replica: bool = False
    """Events: each replica gets its own copy (a queue that dies with the connection), not one per service."""

    single_active: bool = False
    """Commands: of all replicas only one consumes, the others stand by; deliveries keep their order."""

    prefetch: int = 32
    """How many deliveries may be unacknowledged at once."""


@dataclass
class Handlers:
    """The messages a service listens to. Handlers take ``(message, context)``, by hand also the ``Delivery``."""

    service: str
    subscriptions: list[Subscription] = field(default_factory=list)

    @classmethod
    def joined(cls, service: str, *parts: "Handlers") -> "Handlers":
        """Those of all parts, for a service that has too many for one module."""
        return cls(service, [subscription for part in parts for subscription in part.subscriptions])

    def on(
        self,
        message: type[M],
        *,
        ack: Ack = Ack.AFTER,
        every_replica: bool = False,
        single_active: bool = False,
        prefetch: int = 32,
    ) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]:
        def register(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            self.subscriptions.append(Subscription(message, handler, ack, every_replica, single_active, prefetch))
            return handler

        return register


class Bus(Protocol):
    """Speaking needs a connection, not a subscription; listening starts with ``subscribe``.

    Whatever is sent, answers too: ``TooLarge`` is raised for more than 16 MiB.
    """

    async def ask(self, query: Query[R], *, timeout: float = 5.0) -> R:
        """The owner's answer. Raises what the handler raised, ``Unavailable`` if nobody answered in ``timeout`` s."""

    async def send(
        self, command: Command, *, to: str | None = None, message_id: str | None = None, deadline: float | None = None
    ) -> None:
        """Returns when the broker has it safely. ``to``: the instance, for ``to_instance`` commands.

        Raises ``Unavailable`` if the broker did not confirm it, or has no queue for it.
        """

    async def publish(self, event: Event) -> None:
        """Returns when the broker has it; nobody need be listening. Raises ``Unavailable`` if it did not confirm."""

    async def subscribe(self, handlers: Handlers, context: object) -> None:
        """Declare the queues of these handlers and start to consume."""

    async def stop_consuming(self) -> None:
        """Take no new work; running handlers go on. The first step of a drain.

        Events for every replica are still heard, for they may be about the work that goes on.
        """

    async def drain(self, timeout: float) -> None:
        """Wait until every handler that runs now is done, at most ``timeout`` seconds."""

    def stop_hearing(self) -> None:
        """Drop events for every replica, too: what their handlers use is about to be closed."""

    @property
    def connected(self) -> bool: ...

    @property
    def connections(self) -> int:
        """How many there were, up to now. Between two of them, events for every replica were missed."""
