"""The worker as a value."""

import asyncio

from libs.common.lifecycle import Service
from services.worker import heartbeat
from services.worker.context import Context, open_context
from services.worker.handlers import handlers
from services.worker.settings import Settings


async def write_token_log(ctx: Context) -> None:
    await ctx.log_writer.run()


async def expire_models(ctx: Context) -> None:
    await ctx.models.keep_expiring()


async def drain(ctx: Context, seconds: float) -> None:
    """Nothing new is granted; what runs may finish. What has not finished by then fails over."""
    ctx.draining.set()
    await heartbeat.announce(ctx)
    jobs = [running.job for running in ctx.running.values()]
    if jobs:
        await asyncio.wait(jobs, timeout=seconds)
    ctx.gone.set()
    await heartbeat.announce(ctx)


service = Service(
    name="worker",
    settings=Settings,
    open_context=open_context,
    handlers=handlers,
    background=(write_token_log, expire_models, heartbeat.beat),
    drain=drain,
    uses_redis=True,
)
