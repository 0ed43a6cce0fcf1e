"""The bus on RabbitMQ: a session that is replaced by a new one whenever it is lost.

All of a connection is rebuilt by the function that built it at first, so there is no half-restored state. We stand on
aiormq, the protocol layer of aio-pika, which costs a third less CPU per message: docs/decisions/0004.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

import structlog
from yarl import URL

from libs.common.bus.core import MessageBus
from libs.common.bus.envelope import Envelope
from libs.common.bus.rabbit_session import REPLY_TO, ConnectionLost, Session
from libs.common.bus.topology import RETRY_DELAYS_SECONDS, Listener
from libs.common.bus.transport import OnDelivery
from libs.common.errors import Unavailable
from libs.common.settings import RabbitSettings

log = structlog.get_logger(__name__)

START_SECONDS: Final = 30.0
RECONNECT_PAUSE_SECONDS: Final = 0.5
PUBLISH_SECONDS: Final = 5.0


class RabbitBus(MessageBus):
    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: RabbitSettings,
        service: str,
        instance: str,
        *,
        retry_delays: Sequence[float] = RETRY_DELAYS_SECONDS,
    ) -> AsyncIterator["RabbitBus"]:
        """Connected when entered. Raises ``Unavailable`` if that takes more than 30 s."""
        url = URL(settings.url.get_secret_value()).update_query(
            heartbeat=settings.heartbeat_seconds, name=f"{service}-{instance}"
        )
        async with _RabbitTransport(url, retry_delays).running() as transport:
            bus = cls(transport, instance, retry_delays)
            try:
                yield bus
            finally:
                await bus.close()


class _RabbitTransport:
    """Implements ``transport.Transport``."""

    def __init__(self, url: URL, retry_delays: Sequence[float]) -> None:
        self._url = url
        self._retry_delays = retry_delays
        self._listeners: dict[str, tuple[Listener, OnDelivery]] = {}
        self._stopped = False
        self._session: Session | None = None
        self._usable = asyncio.Event()
        self._last_trouble = ""
        self.connections = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["_RabbitTransport"]:
        keeper = asyncio.create_task(self._keep_connected(), name="RabbitMQ connection")
        try:
            await self._first_session()
            yield self
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    @property
    def connected(self) -> bool:
        return self._usable.is_set()

    async def publish(self, envelope: Envelope, exchange: str, routing_key: str, *, mandatory: bool) -> None:
        """A confirm that was lost with its connection is not known to be one: the message is sent again."""
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                while True:
                    session = await self._usable_session()
                    try:
                        return await session.publish(envelope, exchange, routing_key, mandatory=mandatory)
                    except ConnectionLost:
                        session.fail()
        except TimeoutError:
            raise Unavailable(f"RabbitMQ did not confirm {envelope.type} in {PUBLISH_SECONDS:g} s") from None

    async def request(self, envelope: Envelope, exchange: str, routing_key: str) -> Envelope:
        session = await self._usable_session()
        try:
            return await session.request(replace(envelope, reply_to=REPLY_TO), exchange, routing_key)
        except ConnectionLost:
            session.fail()
            raise Unavailable(f"the connection to RabbitMQ was lost while waiting for {envelope.type}") from None

    async def reply(self, request: Envelope, answer: Envelope) -> None:
        if request.reply_to is None or self._session is None or self._session.failed.is_set():
            return
        with suppress(ConnectionLost):
            await self._session.reply(request.reply_to, answer)

    async def consume(self, listener: Listener, on_delivery: OnDelivery) -> None:
        queue = listener.queue.name
        self._listeners[queue] = listener, on_delivery
        try:
            async with asyncio.timeout(START_SECONDS):
                while True:
                    session = await self._usable_session()
                    try:
                        return await session.consume(listener, on_delivery)
                    except ConnectionLost as lost:
                        self._last_trouble = str(lost)
                        session.fail()
        except TimeoutError:
            raise Unavailable(f"could not consume from {queue}: {self._last_trouble}") from None

    async def stop_consuming(self) -> None:
        self._stopped = True
        if self._session is not None:
            with suppress(ConnectionLost):
                await self._session.stop_consuming()

    async def _usable_session(self) -> Session:
        await self._usable.wait()
        assert self._session is not None
        return self._session

    async def _first_session(self) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._usable.wait()
        except TimeoutError:
            where = f"{self._url.host}:{self._url.port}"
            raise Unavailable(f"no connection to RabbitMQ at {where}: {self._last_trouble}") from None

    async def _keep_connected(self) -> None:
        while True:
            try:
                async with aclosing(Session(self._url, self._usable.clear)) as session:
                    await self._set_up(session)
                    await session.failed.wait()
                    log.warning("lost the connection to RabbitMQ")
            except ConnectionLost as lost:
                self._last_trouble = str(lost)
                log.warning("no connection to RabbitMQ", error=self._last_trouble)
            except Exception:  # the edge: whatever befell one connection, the cure is another
                log.exception("a connection to RabbitMQ crashed")
            await asyncio.sleep(RECONNECT_PAUSE_SECONDS)

    async def _set_up(self, session: Session) -> None:
        await session.open(self._retry_delays)
        for listener, on_delivery in list(self._listeners.values()):
            await session.consume(listener, on_delivery)
        if self._stopped:
            await session.stop_consuming()
        if not session.failed.is_set():
            self._session = session
            self.connections += 1
            self._usable.set()
