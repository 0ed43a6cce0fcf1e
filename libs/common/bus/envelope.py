"""A message as it travels: JSON bytes, properties and headers, the same on every transport."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from libs.common import actor
from libs.common.contracts.message import Message, Query
from libs.common.errors import TooLarge
from libs.common.telemetry import inject_trace

ATTEMPT = "x-attempt"
DEADLINE = "x-deadline"
FAILED = "x-failed"
REASON = "x-reason"
QUEUE = "x-queue"
ERROR = "x-error"
LARGEST_BODY_BYTES = 16 << 20
"""RabbitMQ 4 ends the channel of who sends more, and with it all that goes through it."""

BROKER_HISTORY = ("x-death", "x-first-death", "x-last-death", "x-delivery-count", "x-acquired-count")


@dataclass(frozen=True, slots=True)
class Envelope:
    """``type`` is the wire name of the message in ``body``, which is parsed only by whoever handles it."""

    type: str
    body: bytes
    message_id: str
    headers: dict[str, Any] = field(default_factory=dict)
    durable: bool = True
    correlation_id: str | None = None
    reply_to: str | None = None
    expires_in_ms: int | None = None
    sent_at: datetime | None = None

    @property
    def attempt(self) -> int:
        return int(self.headers.get(ATTEMPT, 1))

    @property
    def expired(self) -> bool:
        deadline = self.headers.get(DEADLINE)
        return deadline is not None and time.time() > float(deadline)

    def with_headers(self, changes: Mapping[str, Any]) -> "Envelope":
        """To be sent on, with these headers; what brokers wrote about its way so far is left behind."""
        kept = {name: value for name, value in self.headers.items() if not name.startswith(BROKER_HISTORY)}
        return replace(self, headers={**kept, **changes})


def checked(wire_name: str, body: bytes) -> bytes:
    """Raises ``TooLarge`` for a body that no broker need take."""
    if len(body) > LARGEST_BODY_BYTES:
        raise TooLarge(f"{wire_name} has more than {LARGEST_BODY_BYTES} bytes")
    return body


def enclose(message: Message, *, message_id: str | None = None, deadline: float | None = None) -> Envelope:
    """Encode once; ``deadline`` in seconds since the epoch. The current trace and actor go along.

    Raises ``TooLarge``.
    """
    headers: dict[str, Any] = {}
    inject_trace(headers)
    if (who := actor.current()) is not actor.SYSTEM:
        headers[actor.HEADER] = actor.encode(who)
    if deadline is not None:
        headers[DEADLINE] = str(deadline)  # as text: a float in an AMQP table has 32 bits here, two minutes' precision
    body = checked(message.wire_name, message.model_dump_json().encode())
    return Envelope(message.wire_name, body, message_id or uuid4().hex, headers, sent_at=datetime.now(UTC))


def enclose_query(query: Query[Any], timeout: float) -> Envelope:
    """A query is worth nothing once its asker has given up: the broker forgets it then, and nobody starts on it."""
    envelope = enclose(query, deadline=time.time() + timeout)
    return replace(
        envelope, durable=False, correlation_id=envelope.message_id, expires_in_ms=max(1, round(timeout * 1000))
    )
