"""Following a pull, push or create by what the registry reports of it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.common.contracts.gateway import OperationCancelled
from libs.common.contracts.registry import Failure, OperationReported, Progress, PullModel
from libs.common.errors import DeadlineExceeded, ModelNotFound, Unavailable
from services.gateway import operations as module
from services.gateway.operations import MOST_WAITING, Operation, Operations
from tests.fixtures.gateway import Gateway, a_gateway

COMMAND = PullModel(operation_id="o1", name="m")


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with a_gateway(operation_silence_seconds=0.05) as gateway:
        gateway.bus.answers[PullModel] = lambda _: None
        yield gateway


@pytest.fixture
def operations(gateway: Gateway) -> Operations:
    return gateway.ctx.operations


@pytest.fixture
async def operation(operations: Operations) -> Operation:
    return await operations.start(COMMAND)


def report(*lines: Progress | str, finished: bool = False, error: Failure | None = None) -> OperationReported:
    progress = tuple(Progress(status=line) if isinstance(line, str) else line for line in lines)
    return OperationReported(operation_id="o1", progress=progress, finished=finished, error=error)


def layer(completed: int, digest: str = "sha256:a") -> Progress:
    return Progress(status="pulling a", digest=digest, total=10, completed=completed)


async def cancelled(gateway: Gateway) -> list[str]:
    while len(gateway.ctx.tasks):  # noqa: ASYNC110  cancels are published in tasks of the process
        await asyncio.sleep(0)
    return [event.operation_id for event in gateway.bus.published if isinstance(event, OperationCancelled)]


async def test_all_lines_in_order(gateway: Gateway, operations: Operations, operation: Operation) -> None:
    operations.hear(report("pulling manifest"))
    operations.hear(report(layer(0), "writing manifest", "success", finished=True))
    assert [line.status async for line in operation] == ["pulling manifest", "pulling a", "writing manifest", "success"]
    await operation.aclose()
    assert (await cancelled(gateway), len(operations)) == ([], 0)


async def test_who_reads_slowly_gets_the_latest_of_each_layer(operations: Operations, operation: Operation) -> None:
    for completed in range(11):
        operations.hear(report(layer(completed), layer(completed, "sha256:b")))
    operations.hear(report("success", finished=True))
    assert [line.completed async for line in operation] == [10, 10, 0]


async def test_the_same_words_twice_are_two_lines(operations: Operations, operation: Operation) -> None:
    operations.hear(report("success", "writing manifest", "success", finished=True))
    assert [line.status async for line in operation] == ["success", "writing manifest", "success"]


async def test_what_waits_is_bounded(operations: Operations, operation: Operation) -> None:
    for number in range(MOST_WAITING + 10):
        operations.hear(report(layer(1, f"sha256:{number}")))
    operations.hear(report("success", finished=True))
    lines = [line async for line in operation]
    assert (len(lines), lines[-1].status) == (MOST_WAITING, "success")


async def test_a_failure_comes_after_the_lines(operations: Operations, operation: Operation) -> None:
    failure = Failure(code="model_not_found", message="model 'm' not found")
    operations.hear(report("pulling manifest", finished=True, error=failure))
    lines = aiter(operation)
    assert (await anext(lines)).status == "pulling manifest"
    with pytest.raises(ModelNotFound, match="model 'm' not found"):
        await anext(lines)


async def test_the_end_is_told_again_and_again(operations: Operations, operation: Operation) -> None:
    for _ in range(3):
        operations.hear(report("success", finished=True))
    assert [line.status async for line in operation] == ["success"]
    await operation.aclose()
    operations.hear(report("success", finished=True))


async def test_closing_before_the_end_cancels(gateway: Gateway, operation: Operation) -> None:
    for _ in range(2):
        await operation.aclose()
    assert await cancelled(gateway) == ["o1"]


async def test_silence_ends_and_cancels(gateway: Gateway, operations: Operations, operation: Operation) -> None:
    with pytest.raises(DeadlineExceeded):
        await anext(aiter(operation))
    await operation.aclose()
    assert await cancelled(gateway) == ["o1"]


async def test_a_sign_of_life_is_no_line(operations: Operations, operation: Operation) -> None:
    async def first_line() -> Progress:
        return await anext(aiter(operation))

    operation._silence_seconds = 1
    reading = asyncio.create_task(first_line())
    for _ in range(6):  # together longer than the silence that is borne
        await asyncio.sleep(0.2)
        operations.hear(report())
    operations.hear(report("success", finished=True))
    assert (await reading).status == "success"


async def test_a_gateway_that_drains_says_so_and_lets_the_work_go_on(
    gateway: Gateway, operations: Operations, operation: Operation
) -> None:
    operations.hear(report("pulling manifest"))
    operations.stop_following()
    lines = aiter(operation)
    assert (await anext(lines)).status == "pulling manifest"
    with pytest.raises(Unavailable, match="shutting down"):
        await anext(lines)
    await operation.aclose()
    assert await cancelled(gateway) == []


async def test_a_command_that_may_have_been_sent_is_cancelled(gateway: Gateway, operations: Operations) -> None:
    del gateway.bus.answers[PullModel]
    with pytest.raises(Unavailable):
        await operations.start(COMMAND)
    assert (await cancelled(gateway), len(operations)) == (["o1"], 0)


async def test_a_cancel_that_was_lost_is_sent_again(
    gateway: Gateway, operations: Operations, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No registry listened when the client went away; the one that comes tells how far it is."""
    await operation.aclose()
    operations.hear(report("pulling manifest"))
    assert await cancelled(gateway) == ["o1"], "the report may have been on its way already"
    monkeypatch.setattr(module, "CANCEL_AGAIN_SECONDS", 0)
    operations.hear(report(layer(1)))
    assert await cancelled(gateway) == ["o1", "o1"]
    operations.hear(report(finished=True))
    operations.hear(report(layer(2)))
    assert await cancelled(gateway) == ["o1", "o1"]


async def test_what_others_follow_is_not_cancelled(
    gateway: Gateway, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CANCEL_AGAIN_SECONDS", 0)
    operations.hear(report("pulling manifest"))
    assert await cancelled(gateway) == []


async def test_a_gateway_that_drains_begins_nothing(gateway: Gateway, operations: Operations) -> None:
    operations.stop_following()
    with pytest.raises(Unavailable, match="shutting down"):
        await operations.start(COMMAND)
    assert len(operations) == 0
