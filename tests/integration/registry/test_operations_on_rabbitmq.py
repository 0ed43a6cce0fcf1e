"""The lease of an operation on the real broker: what a lost connection, or ``consumer_timeout``, does to it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.common.bus.base import Ack, Delivery, Handlers
from libs.common.contracts.registry import Failure, OperationReported, Progress, PullModel
from libs.common.tasks import Tasks
from services.registry.operations import PREFETCH, Operations
from services.registry.progress import Report
from tests.fixtures.buses import RabbitWorld, eventually


@pytest.fixture
async def world(rabbitmq_url: str) -> AsyncIterator[RabbitWorld]:
    world = RabbitWorld(rabbitmq_url)
    yield world
    await world.close()


async def test_a_command_that_the_broker_took_away_joins_the_work(world: RabbitWorld) -> None:
    registry, gateway, again = await world.open("registry"), await world.open("gateway"), await world.open("registry")
    begun: list[str] = []
    delivered: list[bool] = []
    ends: list[Failure | None] = []
    may_end = asyncio.Event()
    tasks = Tasks()
    operations = Operations(registry.bus, tasks)
    obeying, listening = Handlers("registry"), Handlers("gateway")

    async def work(report: Report) -> None:
        begun.append("once")
        report(Progress(status="begun"))
        await may_end.wait()

    @obeying.on(PullModel, ack=Ack.MANUAL, prefetch=PREFETCH)
    async def pull(command: PullModel, _ctx: object, delivery: Delivery) -> None:
        await operations.accept(command, delivery, work)
        delivered.append(delivery.redelivered)

    @listening.on(OperationReported, every_replica=True)
    async def reported(event: OperationReported, _ctx: object) -> None:
        ends.extend([event.error] * event.finished)

    await registry.listen(obeying)
    await gateway.listen(listening)
    await gateway.bus.send(PullModel(operation_id="o", name="m"))
    await eventually(lambda: delivered == [False])

    proxy = world.proxies[registry.instance]
    proxy.cut()
    proxy.mend()
    await eventually(lambda: delivered == [False, True])
    may_end.set()
    await eventually(lambda: ends == [None])
    await eventually(lambda: len(operations) == 0)
    assert begun == ["once"]

    await registry.close()  # the acknowledgement may be on its way: it waits for that
    await again.listen(obeying)
    await gateway.bus.send(PullModel(operation_id="after", name="m"))
    await eventually(lambda: len(delivered) == 3)
    assert delivered[-1] is False, "the first one was acknowledged"
    await tasks.cancel_all()
