"""How the installation is doing: what ended within a window, from the journal, and what is now, from memory."""

from libs.common.contracts.scheduler.queue import Quantiles, SystemStats
from libs.common.database import EVERY_ORGANIZATION
from services.scheduler import queue
from services.scheduler.context import Context
from services.scheduler.store import stats as stats_store


async def over(ctx: Context, seconds: float) -> SystemStats:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        ended = await stats_store.ended_within(tx, seconds)
    board = await queue.read(ctx)
    workers = list(ctx.fleet)
    return SystemStats(
        window_seconds=seconds,
        requests=ended.requests,
        done=ended.done,
        failed=ended.failed,
        cancelled=ended.cancelled,
        requests_per_minute=ended.requests * 60 / seconds,
        prompt_tokens_per_second=ended.prompt_tokens / seconds,
        completion_tokens_per_second=ended.completion_tokens / seconds,
        time_to_first_token=_quantiles(ended.first_token),
        duration=_quantiles(ended.duration),
        running=sum(len(worker.grants) for worker in workers),
        waiting=sum(waiting for waiting, _ in board.organizations.values()),
        nodes=len({worker.heartbeat.node for worker in workers}),
        workers=len(workers),
        slots=sum(worker.heartbeat.slots for worker in workers),
    )


def _quantiles(values: list[float | None]) -> Quantiles | None:
    p50, p95 = values
    return None if p50 is None or p95 is None else Quantiles(p50=p50, p95=p95)
