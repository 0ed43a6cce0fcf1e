"""All durable work that a gateway does."""

import asyncio

from services.gateway.batches.runner import Runner
from services.gateway.context import Context
from services.gateway.durable.lane import Lane
from services.gateway.durable.running import run
from services.gateway.responses.background import InBackground


async def run_lanes(ctx: Context) -> None:
    """Background loop."""
    wake = asyncio.Event()
    await run(ctx, [Runner(ctx, wake), Lane(ctx, InBackground(), wake)], wake)
