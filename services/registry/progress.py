"""How long work tells how far it is."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Final

from libs.common.bus.base import Bus
from libs.common.contracts.registry import Failure, OperationReported, Progress
from libs.common.errors import Unavailable

Report = Callable[[Progress], None]
"""Never waits: what comes too quickly is told together, the latest of each layer."""

REPORT_SECONDS: Final = 0.06

SIGN_OF_LIFE_SECONDS: Final = 5.0
"""Something is told at least so often, for a gateway gives up what it hears nothing of."""

END_AGAIN_SECONDS: Final = (2.0, 5.0, 15.0)
"""Pauses after which the end is told again: events do not wait for a gateway that is just without a connection."""


class Reports:
    """The ``Report`` of one operation. The order of what it is told is kept; nothing is lost but overtaken counts."""

    def __init__(self, bus: Bus, operation_id: str) -> None:
        self._bus = bus
        self._operation_id = operation_id
        self._pending: dict[object, Progress] = {}
        self._numbers = count()
        self._news = asyncio.Event()
        self._last: dict[object, Progress] = {}
        self._finished = False
        self._failure: Failure | None = None

    def __call__(self, progress: Progress) -> None:
        key = (progress.status, progress.digest) if progress.digest else next(self._numbers)
        self._pending[key] = progress
        self._last = {key: progress}
        self._news.set()

    def finish(self, failure: Failure | None) -> None:
        self._finished, self._failure = True, failure
        self._news.set()

    async def send_all(self) -> None:
        """Returns when the end is told. While the broker is away what is to be told waits."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), SIGN_OF_LIFE_SECONDS)
            self._news.clear()
            finished, batch = self._finished, self._pending
            self._pending = {}
            try:
                await self._bus.publish(self._event(batch, finished))
            except Unavailable:
                self._pending = {**batch, **self._pending}
                self._news.set()
            else:
                if finished:
                    return
            await asyncio.sleep(REPORT_SECONDS)

    async def tell_end_again(self) -> None:
        """With the last line, which may have been lost with it."""
        for pause in END_AGAIN_SECONDS:
            await asyncio.sleep(pause)
            with suppress(Unavailable):
                await self._bus.publish(self._event(self._last, finished=True))

    def _event(self, batch: dict[object, Progress], finished: bool) -> OperationReported:
        return OperationReported(
            operation_id=self._operation_id,
            progress=tuple(batch.values()),
            finished=finished,
            error=self._failure if finished else None,
        )
