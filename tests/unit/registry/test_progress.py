import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.common.bus.base import Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.message import Event
from libs.common.contracts.registry import Failure, OperationReported, Progress
from libs.common.errors import Unavailable
from services.registry.progress import Reports

LAYER = "sha256:" + "a" * 64


def layer(completed: int) -> Progress:
    return Progress(status="pulling a", digest=LAYER, total=100, completed=completed)


class Gateway:
    def __init__(self) -> None:
        self.events: list[OperationReported] = []

    @property
    def told(self) -> list[Progress]:
        return [progress for event in self.events for progress in event.progress]


@pytest.fixture
async def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def gateway(broker: MemoryBroker) -> AsyncIterator[Gateway]:
    gateway, handlers = Gateway(), Handlers("gateway")

    @handlers.on(OperationReported, every_replica=True)
    async def reported(event: OperationReported, _ctx: object) -> None:
        gateway.events.append(event)

    async with MemoryBus.open(broker, "gateway", "g") as bus:
        await bus.subscribe(handlers, None)
        yield gateway
        await bus.drain(1)


async def test_what_comes_quickly_is_told_together(broker: MemoryBroker, gateway: Gateway) -> None:
    async with MemoryBus.open(broker, "registry", "r") as bus:
        reports = Reports(bus, "o")
        for progress in (Progress(status="pulling manifest"), *map(layer, range(50)), Progress(status="success")):
            reports(progress)
        reports.finish(None)
        await reports.send_all()
    await asyncio.sleep(0)
    assert gateway.told == [Progress(status="pulling manifest"), layer(49), Progress(status="success")]
    assert [(event.finished, event.error) for event in gateway.events] == [(True, None)]


async def test_equal_statuses_without_a_digest_are_all_told(broker: MemoryBroker, gateway: Gateway) -> None:
    async with MemoryBus.open(broker, "registry", "r") as bus:
        reports = Reports(bus, "o")
        reports(Progress(status="parsing GGUF"))
        reports(Progress(status="parsing GGUF"))
        reports.finish(Failure(code="internal", message="no"))
        await reports.send_all()
    await asyncio.sleep(0)
    assert [progress.status for progress in gateway.told] == ["parsing GGUF"] * 2
    assert gateway.events[-1].error == Failure(code="internal", message="no")


class LostBroker(MemoryBus):
    """Confirms nothing for a while."""

    refusals = 2

    async def publish(self, event: Event) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable
        await super().publish(event)


async def test_what_the_broker_did_not_take_is_told_later(broker: MemoryBroker, gateway: Gateway) -> None:
    async with LostBroker.open(broker, "registry", "r") as bus:
        reports = Reports(bus, "o")
        reports(Progress(status="pulling manifest"))
        reports(layer(1))
        sending = asyncio.create_task(reports.send_all())
        await asyncio.sleep(0)
        reports(layer(2))
        reports.finish(None)
        await sending
    await asyncio.sleep(0)
    assert gateway.told == [Progress(status="pulling manifest"), layer(2)]
    assert [event.finished for event in gateway.events] == [True]
