"""Exchanges and queues, derived from contracts and handlers. No name is typed anywhere else.

queries  (direct)  -> <owner>.<Query>                      one reply each, nothing survives its timeout
commands (direct)  -> <owner>.<Command>                    quorum; refused and worn-out messages go to `dead`
                   -> <owner>.<instance>.<Command>         one process's own; what it does not do goes back
events   (topic)   -> <listener>.<owner>.<Event>           quorum, shared by the listener's replicas
                   -> <listener>.<instance>.<owner>.<Event>  dies with its connection
retry.<n>ms (fanout) -> retry.<n>ms                        waits, then returns by its routing key: the queue's name
dead     (fanout)  -> dead                                 waits for an operator
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from libs.common.bus.base import Handlers, Subscription
from libs.common.contracts.message import Command, Event, Message, Query

QUERIES: Final = "queries"
COMMANDS: Final = "commands"
EVENTS: Final = "events"
DEAD: Final = "dead"
DEFAULT: Final = ""
"""The broker's own exchange: its routing key is the name of a queue."""

EXCHANGES: Final[Mapping[str, str]] = {QUERIES: "direct", COMMANDS: "direct", EVENTS: "topic", DEAD: "fanout"}

RETRY_DELAYS_SECONDS: Final = (1.0, 5.0, 30.0, 30.0)
"""A message is tried once more after each of these; the last failure kills it."""

QUERY_TTL_MS: Final = 60_000
INSTANCE_QUEUE_EXPIRES_MS: Final = 60_000

# RabbitMQ 4 drops a message after 20 deliveries unless told otherwise. A held message is delivered once more each
# time its holder dies, so the limit only has to catch one that kills every process that touches it.
DELIVERY_LIMIT: Final = 100

# Looking at the dead letters is a delivery, too, and must never cost one.
DEAD_DELIVERY_LIMIT: Final = 1_000_000_000

# Quorum queues hand a message on only when its next queue has it safely.
SAFE_DEAD_LETTERING: Final = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


@dataclass(frozen=True)
class Queue:
    """A queue and the one binding that fills it. ``exclusive`` ones belong to a connection and end with it."""

    name: str
    exchange: str
    routing_key: str
    arguments: Mapping[str, Any]
    exclusive: bool = False
    returns: bool = False
    """What its owner refuses goes to another queue, where it is somebody else's to retry."""


@dataclass(frozen=True)
class Listener:
    """One consumer: the subscriptions that share a queue, by wire name."""

    queue: Queue
    prefetch: int
    routes: dict[str, Subscription] = field(default_factory=dict)


def command_key(command: type[Command], instance: str | None = None) -> str:
    """The queue a command waits in, which is also its routing key. ``instance``: exactly for ``to_instance`` ones."""
    if command.to_instance != (instance is not None):
        raise ValueError(f"{command.wire_name} is {'' if command.to_instance else 'not '}addressed to an instance")
    return command.wire_name if instance is None else f"{command.owner}.{instance}.{command.__name__}"


def listeners(handlers: Handlers, instance: str) -> list[Listener]:
    """Who consumes what in this process. Raises ``ValueError`` for handlers that cannot be right."""
    found: dict[str, Listener] = {}
    for subscription in handlers.subscriptions:
        if _is_returned(subscription.message, handlers.service):
            continue
        queue = _queue(subscription, handlers.service, instance)
        if queue.name in found:
            raise ValueError(f"{handlers.service} handles {queue.name} twice")
        routes = {subscription.message.wire_name: subscription}
        found[queue.name] = Listener(queue, subscription.prefetch, routes)
    for subscription in handlers.subscriptions:
        if _is_returned(subscription.message, handlers.service):
            _attach_returned(subscription, found)
    return list(found.values())


def dead_queue() -> Queue:
    return Queue(DEAD, DEAD, "", {"x-queue-type": "quorum", "x-delivery-limit": DEAD_DELIVERY_LIMIT})


def retry_queue(delay_seconds: float) -> Queue:
    """Its exchange has its name. A message keeps its routing key, and so finds back to its queue when it expires."""
    delay_ms = round(delay_seconds * 1000)
    name = f"retry.{delay_ms}ms"
    arguments = {
        "x-queue-type": "quorum",
        "x-message-ttl": delay_ms,
        "x-dead-letter-exchange": DEFAULT,
        **SAFE_DEAD_LETTERING,
    }
    return Queue(name, name, "", arguments)


def _queue(subscription: Subscription, service: str, instance: str) -> Queue:
    message = subscription.message
    if issubclass(message, Event):
        return _event_queue(subscription, service, instance)
    if message.owner != service:
        raise ValueError(f"{service} cannot handle {message.wire_name}: it belongs to {message.owner}")
    if issubclass(message, Query):
        arguments = {"x-queue-type": "classic", "x-message-ttl": QUERY_TTL_MS}
        return Queue(message.wire_name, QUERIES, message.wire_name, arguments)
    if issubclass(message, Command):
        return _command_queue(message, subscription.single_active, instance)
    raise ValueError(f"{message.wire_name} is neither a query nor a command nor an event")


def _event_queue(subscription: Subscription, service: str, instance: str) -> Queue:
    event = subscription.message.wire_name
    if subscription.every_replica:
        return Queue(f"{service}.{instance}.{event}", EVENTS, event, {"x-queue-type": "classic"}, exclusive=True)
    return Queue(f"{service}.{event}", EVENTS, event, _quorum(single_active=False))


def _command_queue(command: type[Command], single_active: bool, instance: str) -> Queue:
    if not command.to_instance:
        name = command_key(command)
        return Queue(name, COMMANDS, name, _quorum(single_active))
    if command.returns_to is None or not command.lease_ttl_seconds:
        raise ValueError(f"{command.wire_name} must say where and when it returns if its instance dies")
    name = command_key(command, instance)
    arguments = {
        "x-queue-type": "classic",
        "x-expires": INSTANCE_QUEUE_EXPIRES_MS,
        "x-message-ttl": round(command.lease_ttl_seconds * 1000),
        "x-dead-letter-exchange": COMMANDS,
        "x-dead-letter-routing-key": command_key(command.returns_to),
    }
    return Queue(name, COMMANDS, name, arguments, returns=True)


def _quorum(single_active: bool) -> dict[str, Any]:
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD,
        **SAFE_DEAD_LETTERING,
    }
    return arguments | {"x-single-active-consumer": True} if single_active else arguments


def _is_returned(message: type[Message], service: str) -> bool:
    """An instance's command seen from the other end: by the service that gets it back."""
    if not issubclass(message, Command) or message.returns_to is None or message.owner == service:
        return False
    return message.returns_to.owner == service


def _attach_returned(subscription: Subscription, found: dict[str, Listener]) -> None:
    message = subscription.message
    assert issubclass(message, Command)
    assert message.returns_to is not None
    home = found.get(command_key(message.returns_to))
    if home is None:
        raise ValueError(f"{message.wire_name} returns to {message.returns_to.wire_name}, which has no handler here")
    home.routes[message.wire_name] = subscription
