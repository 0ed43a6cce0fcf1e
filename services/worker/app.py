"""The worker as a value."""

import asyncio

from starlette.types import ASGIApp

from libs.common.lifecycle import Service
from services.worker import heartbeat, inference, peers
from services.worker.context import Context, open_context
from services.worker.handlers import handlers
from services.worker.settings import Settings

HAND_BACK_SECONDS = 5.0


async def write_token_log(ctx: Context) -> None:
    await ctx.log_writer.run()


async def expire_models(ctx: Context) -> None:
    await ctx.models.keep_expiring()


async def report_cache(ctx: Context) -> None:
    await ctx.replicas.keep_reporting()


async def fetch_replicas(ctx: Context) -> None:
    await ctx.replicas.keep_fetching()


async def scrub_blobs(ctx: Context) -> None:
    await ctx.replicas.keep_scrubbing(ctx.settings.scrub_seconds, ctx.settings.scrub_bytes_per_second)


def peer_door(ctx: Context) -> tuple[ASGIApp, str, int]:
    settings = ctx.settings
    app = peers.create_app(
        ctx.blobs,
        ctx.reporter.peer_key,
        transfers=settings.peer_transfers,
        bytes_per_second=settings.peer_bytes_per_second,
    )
    return app, settings.peer_host, settings.peer_port


async def drain(ctx: Context, seconds: float) -> None:
    """Nothing new is granted; what runs may finish. What has not finished by then goes on elsewhere."""
    ctx.draining.set()
    await heartbeat.announce(ctx)
    jobs = [attempt.job for attempt in ctx.running.values()]
    if jobs:
        await asyncio.wait(jobs, timeout=seconds)
    await inference.hand_back_all(ctx, HAND_BACK_SECONDS)
    ctx.gone.set()
    await heartbeat.announce(ctx)


service = Service(
    name="worker",
    settings=Settings,
    open_context=open_context,
    handlers=handlers,
    public_app=peer_door,
    background=(write_token_log, expire_models, heartbeat.beat, report_cache, fetch_replicas, scrub_blobs),
    drain=drain,
    uses_redis=True,
)
