"""The scheduler as a value."""

from libs.common.lifecycle import Service
from services.scheduler import attempts, dispatch, exchanges, failover, nodes, preemption, queue, shares, sweeping
from services.scheduler.context import Context, open_context
from services.scheduler.handlers import handlers
from services.scheduler.settings import Settings


async def write_journal(ctx: Context) -> None:
    await ctx.journal.run()


async def drain(ctx: Context, seconds: float) -> None:
    """Waiting requests need nothing: unacknowledged, they go to the next scheduler."""
    ctx.draining.set()
    await ctx.journal.flush(seconds)


service = Service(
    name="scheduler",
    settings=Settings,
    open_context=open_context,
    handlers=handlers,
    background=(
        dispatch.dispatch,
        sweeping.sweep,
        preemption.preempt,
        failover.watch_workers,
        write_journal,
        queue.show,
        attempts.show,
        shares.keep,
        nodes.keep,
        exchanges.forget_old,
        exchanges.seal_anew,
    ),
    drain=drain,
    uses_postgres=True,
    uses_redis=True,
)
