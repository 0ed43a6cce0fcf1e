"""What happens to a delivery: parse it, call the handler, then answer, acknowledge, try again later or bury it."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final
from uuid import uuid4

import structlog
from pydantic import TypeAdapter, ValidationError

from libs.common import actor
from libs.common.bus.base import Ack, Subscription
from libs.common.bus.envelope import ATTEMPT, ERROR, FAILED, QUEUE, REASON, Envelope, checked
from libs.common.bus.metrics import dead_letters_total, messages_total
from libs.common.bus.topology import DEAD, Listener, retry_queue
from libs.common.bus.transport import Incoming, Transport
from libs.common.contracts.message import Command, Message, Query
from libs.common.errors import InvalidRequest, ServiceError, Unavailable
from libs.common.telemetry import consumer_span, mark_failed

log = structlog.get_logger(__name__)

LONGEST_ERROR: Final = 1000


class Unfit(Exception):
    """A message that must not reach its handler."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class HeldDelivery:
    """The ``Delivery`` of a handler that acknowledges by hand."""

    def __init__(self, incoming: Incoming, bury: Callable[[Incoming, str, str], Any], *, returns: bool) -> None:
        self._incoming = incoming
        self._bury = bury
        self._returns = returns

    @property
    def message_id(self) -> str:
        return self._incoming.envelope.message_id

    @property
    def redelivered(self) -> bool:
        return self._incoming.redelivered

    @property
    def attempt(self) -> int:
        return self._incoming.envelope.attempt

    @property
    def lost(self) -> bool:
        return self._incoming.lost

    async def ack(self) -> None:
        await self._incoming.ack()

    async def requeue(self) -> None:
        # "To anybody" means another process; only this one reads an instance's own queue.
        await self._incoming.nack(requeue=not self._returns)

    async def reject(self, reason: str) -> None:
        await self._bury(self._incoming, reason, "")


class Dispatcher:
    """One listener's deliveries. A handler's exceptions end here, and each delivery is settled exactly once."""

    def __init__(
        self, transport: Transport, listener: Listener, context: object, retry_delays: Sequence[float]
    ) -> None:
        self._transport = transport
        self._queue = listener.queue
        self._routes: Mapping[str, Subscription] = listener.routes
        self._verbs = {name: _verb(route.message) for name, route in listener.routes.items()}
        self._context = context
        self._retry_delays = retry_delays

    async def dispatch(self, incoming: Incoming) -> None:
        envelope = incoming.envelope
        route = self._routes.get(envelope.type)
        if route is None:
            await self._bury(incoming, "unknown type", "")
            return
        verb = self._verbs[envelope.type]
        actor.become(actor.decode(envelope.headers.get(actor.HEADER)))  # a delivery has a task of its own
        with consumer_span(f"process {envelope.type}", envelope.headers) as span:
            run = self._answer if verb == "query" else self._handle
            outcome = await run(incoming, route)
            if outcome not in ("done", "expired"):
                mark_failed(span, outcome)
        messages_total.labels(verb, envelope.type, outcome).inc()

    async def _handle(self, incoming: Incoming, route: Subscription) -> str:
        try:
            await self._call(incoming, route)
        except Unfit as unfit:
            return await self._give_up(incoming, unfit.reason, unfit.detail)
        except ServiceError as error:
            detail = f"{error.code}: {error.message}"
            if error.retryable:
                return await self._retry(incoming, detail)
            return await self._give_up(incoming, "failed", detail)
        except Exception as error:  # the edge: whatever a handler raises must not end the consumer
            log.exception("a handler crashed", message=incoming.envelope.type, message_id=incoming.envelope.message_id)
            return await self._give_up(incoming, "crashed", f"{type(error).__name__}: {error}")
        if route.ack is Ack.AFTER:
            await incoming.ack()
        return "done"

    async def _call(self, incoming: Incoming, route: Subscription) -> None:
        by_hand = route.ack is Ack.MANUAL
        if incoming.envelope.expired and not by_hand:
            raise Unfit("deadline")
        message = _parse(route.message, incoming.envelope)
        if by_hand:
            delivery = HeldDelivery(incoming, self._bury, returns=self._queue.returns)
            await route.handler(message, self._context, delivery)
        else:
            await route.handler(message, self._context)

    async def _answer(self, incoming: Incoming, route: Subscription) -> str:
        request = incoming.envelope
        if request.expired:
            await incoming.ack()
            return "expired"
        outcome, headers = "done", {}
        try:
            answer = await route.handler(_parse(route.message, request), self._context)
            body = checked(request.type, reply_adapter(route.message).dump_json(answer))
        except Exception as error:  # the edge: every failure is an answer
            outcome, headers = "failed", {FAILED: True}
            body = _failure(error, request.type)
        reply = Envelope(request.type, body, uuid4().hex, headers, durable=False, correlation_id=request.correlation_id)
        await self._transport.reply(request, reply)
        await incoming.ack()
        return outcome

    async def _retry(self, incoming: Incoming, detail: str) -> str:
        envelope = incoming.envelope
        if self._queue.returns or self._final(incoming):
            return await self._give_up(incoming, "failed", detail)
        if envelope.attempt > len(self._retry_delays):
            return await self._give_up(incoming, "exhausted", detail)
        delay = self._retry_delays[envelope.attempt - 1]
        log.warning("will try again", message=envelope.type, message_id=envelope.message_id, seconds=delay, why=detail)
        again = envelope.with_headers({ATTEMPT: envelope.attempt + 1})
        await self._move(incoming, again, retry_queue(delay).exchange)
        return "retried"

    async def _give_up(self, incoming: Incoming, reason: str, detail: str) -> str:
        if not self._queue.returns or incoming.settled:
            return await self._bury(incoming, reason, detail)
        envelope = incoming.envelope
        log.error("handed back", message=envelope.type, message_id=envelope.message_id, reason=reason, error=detail)
        await incoming.nack(requeue=False)
        return "returned"

    async def _bury(self, incoming: Incoming, reason: str, detail: str) -> str:
        envelope, queue = incoming.envelope, self._queue.name
        about = {"message": envelope.type, "message_id": envelope.message_id, "queue": queue}
        log.error("a message failed", **about, reason=reason, error=detail)
        if self._final(incoming):
            await incoming.ack()
            return "failed"
        why = {REASON: reason, QUEUE: queue, ERROR: detail[:LONGEST_ERROR]}
        await self._move(incoming, envelope.with_headers(why), DEAD)
        dead_letters_total.labels(envelope.type, reason).inc()
        return "dead"

    async def _move(self, incoming: Incoming, envelope: Envelope, exchange: str) -> None:
        """First there, then not here: a crash in between makes two of it, never none."""
        try:
            await self._transport.publish(envelope, exchange, self._queue.name, mandatory=True)
        except Unavailable:
            await incoming.nack(requeue=True)
        else:
            await incoming.ack()

    def _final(self, incoming: Incoming) -> bool:
        """A replica's own copy of an event, or what its handler settled before it failed: nothing to try again."""
        return self._queue.exclusive or incoming.settled


@cache
def reply_adapter(query: type[Query[Any]]) -> TypeAdapter[Any]:
    return query.reply_adapter()


def _verb(message: type[Message]) -> str:
    if issubclass(message, Query):
        return "query"
    return "command" if issubclass(message, Command) else "event"


def _parse(message: type[Message], envelope: Envelope) -> Message:
    try:
        return message.model_validate_json(envelope.body)
    except ValidationError as error:
        # Not the values: they may be prompts or secrets.
        problems = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise Unfit("undecodable", "; ".join(problems)) from None


def _failure(error: Exception, query: str) -> bytes:
    """An error as it crosses: the arguments of ``rebuild``. What we did not expect stays in our log."""
    if isinstance(error, Unfit):
        error = InvalidRequest(f"not a valid {query}: {error.detail}")
    elif not isinstance(error, ServiceError):
        log.error("a handler crashed", message=query, exc_info=error)
        error = ServiceError()
    return json.dumps({"code": error.code, "message": error.message, "retry_after": error.retry_after}).encode()
