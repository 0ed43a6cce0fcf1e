"""All durable work that a gateway does."""

import asyncio

from services.gateway.batches.runner import Runner
from services.gateway.context import Context
from services.gateway.durable.running import run


async def run_lanes(ctx: Context) -> None:
    """Background loop."""
    wake = asyncio.Event()
    await run(ctx, [Runner(ctx, wake)], wake)
