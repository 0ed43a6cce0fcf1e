"""A report that is lost with somebody's connection hangs nobody: work tells that it lives, and its end again."""

import asyncio
from typing import Any, cast

import pytest

from libs.common.contracts.registry import Failure, OperationReported, Progress
from libs.common.errors import Unavailable
from services.registry import progress
from services.registry.progress import Reports

SUCCESS = Progress(status="success")


class RecordingBus:
    def __init__(self) -> None:
        self.published: list[OperationReported] = []
        self.away = False

    async def publish(self, event: OperationReported) -> None:
        if self.away:
            raise Unavailable
        self.published.append(event)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("SIGN_OF_LIFE_SECONDS", 0.02), ("END_AGAIN_SECONDS", (0, 0, 0)), ("REPORT_SECONDS", 0)):
        monkeypatch.setattr(progress, name, seconds)


async def test_work_without_news_shows_that_it_lives() -> None:
    bus = RecordingBus()
    reports = Reports(cast(Any, bus), "o")
    sending = asyncio.create_task(reports.send_all())
    async with asyncio.timeout(5):
        while len(bus.published) < 3:  # noqa: ASYNC110  it comes by itself
            await asyncio.sleep(0.01)
    assert {event.model_dump_json() for event in bus.published} == {
        OperationReported(operation_id="o").model_dump_json()
    }
    reports(SUCCESS)
    reports.finish(None)
    await sending


@pytest.mark.parametrize("failure", [None, Failure(code="internal", message="no")])
async def test_the_end_is_told_again_with_the_last_line(failure: Failure | None) -> None:
    bus = RecordingBus()
    reports = Reports(cast(Any, bus), "o")
    reports(Progress(status="pulling manifest"))
    reports(SUCCESS)
    reports.finish(failure)
    await reports.send_all()
    bus.published.clear()
    await reports.tell_end_again()
    again = OperationReported(operation_id="o", progress=(SUCCESS,), finished=True, error=failure)
    assert bus.published == [again] * 3


async def test_a_broker_that_is_away_is_no_failure_of_the_work() -> None:
    bus = RecordingBus()
    reports = Reports(cast(Any, bus), "o")
    bus.away = True
    reports.finish(None)
    await reports.tell_end_again()
    assert bus.published == []
