"""The bus over any transport: the three verbs, and the handlers that are running."""

import asyncio
import json
from collections.abc import Sequence
from typing import TypeVar

import structlog
from pydantic import ValidationError

from libs.common.bus.base import Handlers
from libs.common.bus.dispatch import Dispatcher, reply_adapter
from libs.common.bus.envelope import FAILED, enclose, enclose_query
from libs.common.bus.topology import COMMANDS, EVENTS, QUERIES, command_key, listeners
from libs.common.bus.transport import Incoming, OnDelivery, Transport
from libs.common.contracts.message import Command, Event, Query
from libs.common.errors import ServiceError, Unavailable, rebuild

R = TypeVar("R")

log = structlog.get_logger(__name__)


class MessageBus:
    """Implements ``base.Bus``; what differs between brokers is the ``Transport``.

    A command keeps its ``message_id`` over retries and replay. Handlers are idempotent by a natural key of the
    message (a request id and ``ON CONFLICT``); ``message_id`` is for those that have none.
    """

    def __init__(self, transport: Transport, instance: str, retry_delays: Sequence[float]) -> None:
        self._transport = transport
        self._instance = instance
        self._retry_delays = retry_delays
        self._running: set[asyncio.Task[None]] = set()
        self._hears = True

    @property
    def connected(self) -> bool:
        return self._transport.connected

    @property
    def connections(self) -> int:
        return self._transport.connections

    async def ask(self, query: Query[R], *, timeout: float = 5.0) -> R:
        try:
            async with asyncio.timeout(timeout):
                answer = await self._transport.request(enclose_query(query, timeout), QUERIES, query.wire_name)
        except TimeoutError:
            raise Unavailable(f"no answer to {query.wire_name} in {timeout:g} s") from None
        if answer.headers.get(FAILED):
            raise rebuild(**json.loads(answer.body))
        try:
            return reply_adapter(type(query)).validate_json(answer.body)  # type: ignore[no-any-return]
        except ValidationError:
            raise ServiceError(f"the answer to {query.wire_name} is not what it should be") from None

    async def send(
        self,
        command: Command,
        *,
        to: str | None = None,
        message_id: str | None = None,
        deadline: float | None = None,
    ) -> None:
        envelope = enclose(command, message_id=message_id, deadline=deadline)
        await self._transport.publish(envelope, COMMANDS, command_key(type(command), to), mandatory=True)

    async def publish(self, event: Event) -> None:
        await self._transport.publish(enclose(event), EVENTS, event.wire_name, mandatory=False)

    async def subscribe(self, handlers: Handlers, context: object) -> None:
        for listener in listeners(handlers, self._instance):
            dispatcher = Dispatcher(self._transport, listener, context, self._retry_delays)
            await self._transport.consume(listener, self._starter(dispatcher, exclusive=listener.queue.exclusive))

    async def stop_consuming(self) -> None:
        await self._transport.stop_consuming()

    async def drain(self, timeout: float) -> None:
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=timeout)
        if late:
            log.warning("handlers still running at the end of the drain", count=len(late))

    async def close(self) -> None:
        """Cancel what still runs. It is not acknowledged, so the broker gives it to somebody else."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def stop_hearing(self) -> None:
        self._hears = False

    def _starter(self, dispatcher: Dispatcher, *, exclusive: bool) -> OnDelivery:
        def start(incoming: Incoming) -> None:
            if exclusive and not self._hears:
                return
            task = asyncio.create_task(dispatcher.dispatch(incoming))
            self._running.add(task)
            task.add_done_callback(self._done)

        return start

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the bus failed to settle a message", exc_info=error)
