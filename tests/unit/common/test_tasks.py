import asyncio

import pytest

from libs.common import tasks
from libs.common.tasks import Tasks


async def test_a_task_that_overhears_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_SECONDS", 0.01)
    overheard = 0

    async def hard_of_hearing() -> None:
        nonlocal overheard
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                overheard += 1
                if overheard == 3:
                    raise

    group = Tasks()
    task = group.start(hard_of_hearing(), name="hard of hearing")
    await asyncio.sleep(0)
    await asyncio.wait_for(group.cancel_all(), 5)
    assert task.cancelled()
    group.failed.cancel()
