"""What does durable work: looks when woken, and keeps what it has claimed. A gateway that drains begins nothing."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from libs.common.errors import Unavailable
from services.gateway.context import Context
from services.gateway.durable.lane import KEEP_SECONDS

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 3.0
CHANNEL: Final = "batches_gateway"
"""Named after what it was for at first: older gateways listen to it while newer ones start."""


class Worker(Protocol):
    async def look(self) -> None:
        """Begin whatever there is to do. Raises ``Unavailable``."""

    async def keep(self) -> None:
        """Whatever is under way stays ours. Raises ``Unavailable``."""


async def run(ctx: Context, workers: Sequence[Worker], wake: asyncio.Event) -> None:
    """Until it is cancelled. ``wake``: look again."""
    ctx.tasks.start(_listen(ctx, wake), "hear of durable work")
    ctx.tasks.start(_keep(workers), "keep durable work")
    while not ctx.draining.is_set():
        wake.clear()
        for worker in workers:
            try:
                await worker.look()
            except Unavailable as error:
                log.warning("durable work waits", reason=error.message)
        await wake.wait()
    await asyncio.Event().wait()


async def _listen(ctx: Context, wake: asyncio.Event) -> None:
    while True:
        try:
            async for _ in ctx.db.wake_ups(CHANNEL, LOOK_SECONDS):
                wake.set()
        except Unavailable:
            await asyncio.sleep(LOOK_SECONDS)


async def _keep(workers: Sequence[Worker]) -> None:
    while True:
        await asyncio.sleep(KEEP_SECONDS)
        for worker in workers:
            try:
                await worker.keep()
            except Unavailable as error:
                log.warning("durable work could not be kept", reason=error.message)
