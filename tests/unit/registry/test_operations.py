"""Operations on the memory bus: a gateway that sends and listens, registries that come and go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import pytest

from libs.common.bus.base import Ack, Bus, Delivery, Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.registry import OperationReported, Progress, PullModel
from libs.common.errors import ModelNotFound, ServiceError, Unavailable
from libs.common.tasks import Tasks
from services.registry import operations as module
from services.registry import progress
from services.registry.operations import MOST_HELD, PREFETCH, RUNNING_AT_ONCE, Operations
from services.registry.progress import Report
from tests.fixtures.buses import eventually


@dataclass
class Script:
    """What the work of every operation does."""

    begun: list[str] = field(default_factory=list)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    async def work(self, operation_id: str, report: Report) -> None:
        self.begun.append(operation_id)
        report(Progress(status="begun"))
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        report(Progress(status="success"))


class HeldCommand:
    """A delivery."""

    message_id, redelivered, attempt, lost = "m", False, 1, False

    def __init__(self) -> None:
        self.acknowledged = False

    async def ack(self) -> None:
        self.acknowledged = True

    async def requeue(self) -> None: ...

    async def reject(self, reason: str) -> None: ...


@dataclass
class Registry:
    operations: Operations
    bus: MemoryBus
    stack: AsyncExitStack


class World:
    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.script = Script()
        self.reports: list[OperationReported] = []
        self.registries: list[Registry] = []
        self.gateway: Bus

    async def start_registry(self) -> Registry:
        stack = AsyncExitStack()
        bus = await stack.enter_async_context(MemoryBus.open(self.broker, "registry", f"r{len(self.registries)}"))
        tasks = Tasks()
        stack.push_async_callback(tasks.cancel_all)
        operations = Operations(bus, tasks)
        handlers = Handlers("registry")

        @handlers.on(PullModel, ack=Ack.MANUAL, prefetch=PREFETCH)
        async def pull(command: PullModel, _ctx: object, delivery: Delivery) -> None:
            await operations.accept(command, delivery, lambda report: self.script.work(command.operation_id, report))

        await bus.subscribe(handlers, None)
        self.registries.append(Registry(operations, bus, stack))
        return self.registries[-1]

    async def listen(self, bus: Bus) -> None:
        self.gateway = bus
        handlers = Handlers("gateway")

        @handlers.on(OperationReported, every_replica=True)
        async def reported(event: OperationReported, _ctx: object) -> None:
            self.reports.append(event)

        await bus.subscribe(handlers, None)

    async def send(self, operation_id: str) -> None:
        await self.gateway.send(PullModel(operation_id=operation_id, name="m"))

    def statuses(self, operation_id: str) -> list[str]:
        mine = [report for report in self.reports if report.operation_id == operation_id]
        return [progress.status for report in mine for progress in report.progress]

    def ends(self, operation_id: str) -> list[str]:
        """Codes of errors, or ``""``."""
        ended = [report for report in self.reports if report.operation_id == operation_id and report.finished]
        return [report.error.code if report.error else "" for report in ended]

    def left(self, registry: Registry) -> int:
        return len(registry.operations)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with MemoryBus.open(world.broker, "gateway", "g") as bus:
        await world.listen(bus)
        yield world
        for registry in world.registries:
            await registry.stack.aclose()


async def test_it_reports_and_ends_once(world: World) -> None:
    registry = await world.start_registry()
    await world.send("a")
    await eventually(lambda: world.statuses("a") == ["begun"])
    assert world.ends("a") == []
    world.script.may_end.set()
    await eventually(lambda: world.ends("a") == [""])
    assert world.statuses("a") == ["begun", "success"]
    await eventually(lambda: world.left(registry) == 0)
    registry.bus.disconnect()
    await world.start_registry()
    assert world.script.begun == ["a"], "it was acknowledged"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ModelNotFound("no such model"), "model_not_found", "no such model"),
        (OSError(28, "No space left on device"), "internal", "No space left on device"),
        (ZeroDivisionError("a secret"), "internal", "internal error"),
    ],
)
async def test_an_error_ends_it(world: World, error: Exception, code: str, message: str) -> None:
    await world.start_registry()
    world.script.error = error
    world.script.may_end.set()
    await world.send("a")
    await eventually(lambda: world.ends("a") == [code])
    assert world.reports[-1].error is not None
    assert world.reports[-1].error.message == message
    assert world.broker.dead == []


@pytest.mark.parametrize(("failures", "end"), [(2, ""), (9, "unavailable")])
async def test_what_is_away_for_a_moment_ends_no_work(
    world: World, monkeypatch: pytest.MonkeyPatch, failures: int, end: str
) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", (0, 0))
    registry = await world.start_registry()
    times = 0

    async def work(report: Report) -> None:
        nonlocal times
        times += 1
        if times <= failures:
            raise Unavailable("the database is not available")
        report(Progress(status="success"))

    await registry.operations.accept(PullModel(operation_id="a", name="m"), HeldCommand(), work)
    await eventually(lambda: world.ends("a") == [end])
    assert times == 3


@pytest.mark.parametrize(
    "error", [None, Unavailable("no"), OSError(28, "full"), ZeroDivisionError(), ModelNotFound("m")]
)
async def test_however_it_ends_that_is_noted_before_it_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", (0,))
    registry, held, noted = await world.start_registry(), HeldCommand(), []
    world.script.error = error
    world.script.may_end.set()

    async def ended(failure: ServiceError | None) -> None:
        assert world.ends("a") == []
        noted.append(failure and failure.code)
        if len(noted) == 1:
            raise Unavailable("the database is away for a moment")

    work = partial(world.script.work, "a")
    await registry.operations.accept(PullModel(operation_id="a", name="m"), held, work, ended)
    await eventually(lambda: held.acknowledged)
    assert noted == [world.ends("a")[0] or None] * 2


async def test_an_end_that_cannot_be_noted_ends_all_the_same(world: World) -> None:
    registry, held = await world.start_registry(), HeldCommand()
    world.script.may_end.set()

    async def ended(_failure: ServiceError | None) -> None:
        raise ZeroDivisionError

    work = partial(world.script.work, "a")
    await registry.operations.accept(PullModel(operation_id="a", name="m"), held, work, ended)
    await eventually(lambda: held.acknowledged)
    assert (world.ends("a"), world.left(registry)) == ([""], 0)


async def test_what_is_refused_is_noted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 0)
    registry, held, noted = await world.start_registry(), HeldCommand(), []

    async def ended(failure: ServiceError | None) -> None:
        noted.append(failure and failure.code)

    work = partial(world.script.work, "a")
    await registry.operations.accept(PullModel(operation_id="a", name="m"), held, work, ended)
    assert (noted, held.acknowledged) == (["overloaded"], True)


async def test_a_command_that_comes_again_joins(world: World) -> None:
    registry = await world.start_registry()
    await world.send("a")
    await world.send("a")
    await eventually(lambda: world.script.begun == ["a"])
    world.script.may_end.set()
    await eventually(lambda: world.left(registry) == 0)
    assert world.ends("a") == [""]
    assert world.script.begun == ["a"]
    registry.bus.disconnect()
    await world.start_registry()
    assert world.script.begun == ["a"], "both were acknowledged"


async def test_the_next_registry_goes_on_when_one_dies(world: World) -> None:
    first = await world.start_registry()
    await world.send("a")
    await eventually(lambda: world.script.begun == ["a"])
    first.bus.disconnect()
    await world.start_registry()
    await eventually(lambda: world.script.begun == ["a", "a"])
    await first.operations.hand_over(5)
    world.script.may_end.set()
    await eventually(lambda: world.ends("a") == [""])


async def test_what_is_handed_over_has_no_end(world: World) -> None:
    first = await world.start_registry()
    await world.send("a")
    await eventually(lambda: world.statuses("a") == ["begun"])
    await first.bus.stop_consuming()
    await first.operations.hand_over(5)
    assert world.left(first) == 0
    await first.stack.aclose()
    assert world.ends("a") == []
    world.script.may_end.set()
    await world.start_registry()
    await eventually(lambda: world.ends("a") == [""])


async def test_a_cancel_ends_it(world: World) -> None:
    registry = await world.start_registry()
    await world.send("a")
    await world.send("b")
    await eventually(lambda: world.script.begun == ["a", "b"])
    registry.operations.cancel("a")
    await eventually(lambda: world.ends("a") == ["request_cancelled"])
    world.script.may_end.set()
    await eventually(lambda: world.ends("b") == [""])
    assert world.statuses("a") == ["begun"]
    await eventually(lambda: world.left(registry) == 0)


async def test_a_cancel_that_overtakes_its_command(world: World) -> None:
    registry = await world.start_registry()
    registry.operations.cancel("a")
    await world.send("a")
    await world.send("b")
    await eventually(lambda: world.script.begun == ["b"])
    assert world.left(registry) == 1
    registry.bus.disconnect()
    await world.start_registry()
    await eventually(lambda: world.script.begun == ["b", "b"])
    assert "a" not in world.script.begun, "it was acknowledged"


async def test_a_cancel_that_comes_with_its_command(world: World) -> None:
    registry = await world.start_registry()
    held = HeldCommand()
    await registry.operations.accept(
        PullModel(operation_id="a", name="m"), held, lambda report: world.script.work("a", report)
    )
    registry.operations.cancel("a")
    await eventually(lambda: held.acknowledged)
    assert (world.ends("a"), world.left(registry), world.script.begun) == (["request_cancelled"], 0, [])


async def test_a_cancel_that_is_repeated_leaves_the_clean_up_alone(world: World) -> None:
    registry = await world.start_registry()
    may_be_clean, clean = asyncio.Event(), asyncio.Event()

    async def work(_report: Report) -> None:
        try:
            world.script.begun.append("a")
            await world.script.may_end.wait()
        finally:
            await may_be_clean.wait()
            clean.set()

    await registry.operations.accept(PullModel(operation_id="a", name="m"), HeldCommand(), work)
    await eventually(lambda: world.script.begun)
    for _ in range(3):
        registry.operations.cancel("a")
        await asyncio.sleep(0)
    may_be_clean.set()
    await eventually(lambda: world.ends("a") == ["request_cancelled"])
    assert clean.is_set()


async def test_what_has_ended_does_not_begin_again(world: World) -> None:
    """Its acknowledgement may be lost; meanwhile the model may have been made anew, or deleted."""
    registry = await world.start_registry()
    world.script.may_end.set()
    await world.send("a")
    await eventually(lambda: world.ends("a") == [""])
    await eventually(lambda: world.left(registry) == 0)
    await world.send("a")
    await world.send("b")
    await eventually(lambda: world.ends("b") == [""])
    await eventually(lambda: world.left(registry) == 0)
    assert world.script.begun == ["a", "b"]
    registry.bus.disconnect()
    await world.start_registry()
    await world.send("c")
    await eventually(lambda: world.ends("c") == [""])
    assert world.script.begun == ["a", "b", "c"], "it was acknowledged again"


async def test_a_few_run_some_wait_and_more_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "END_AGAIN_SECONDS", (0,))
    registry = await world.start_registry()
    for number in range(MOST_HELD + 1):
        await world.send(str(number))
    await eventually(lambda: world.ends(str(MOST_HELD)) == ["overloaded"] * 2)  # once more, as every end
    assert len(world.script.begun) == RUNNING_AT_ONCE[PullModel]
    world.script.may_end.set()
    await eventually(lambda: world.left(registry) == 0)
    assert len(world.script.begun) == MOST_HELD
    await eventually(lambda: all("" in world.ends(str(number)) for number in range(MOST_HELD)))


async def test_a_cancelled_one_that_waits_never_begins(world: World) -> None:
    registry = await world.start_registry()
    running = RUNNING_AT_ONCE[PullModel]
    for number in range(running + 1):
        await world.send(str(number))
    await eventually(lambda: world.left(registry) == running + 1)
    registry.operations.cancel(str(running))
    await eventually(lambda: world.ends(str(running)) == ["request_cancelled"])
    assert len(world.script.begun) == running
