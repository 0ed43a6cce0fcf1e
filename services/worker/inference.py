"""Use case: a grant becomes frames in the token log. The delivery is acknowledged last: the broker is the lease."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace

import structlog
from prometheus_client import Counter, Gauge, Histogram
from redis.exceptions import RedisError

from libs.common.bus.base import Delivery
from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.scheduler import RequestInference
from libs.common.contracts.tokens import Frame, StreamEnd, StreamError, Usage
from libs.common.contracts.worker import InferenceFinished, RunInference
from libs.common.errors import (
    DeadlineExceeded,
    EngineFailed,
    ModelLoadFailed,
    ReplayDiverged,
    RequestCancelled,
    ServiceError,
    StreamLost,
    Unavailable,
)
from libs.common.telemetry import Attributes, internal_span, mark_failed
from libs.common.token_log.store import task_key
from libs.common.token_log.writer import Ended, Fenced, RequestLog
from services.worker.context import Context, Running
from services.worker.engines.base import Finish, Job, LoadedEngine
from services.worker.replay import Replay

log = structlog.get_logger(__name__)

_running = Gauge("worker_requests_running", "Requests this worker runs")
_tokens = Counter("worker_tokens_total", "Tokens by direction", ["direction"])
_attempts = Counter("worker_attempts_total", "Attempts by outcome", ["outcome"])
_load_seconds = Histogram(
    "worker_model_wait_seconds", "Waiting for the model of a request", buckets=(0.001, 0.01, 0.1, 1, 5, 30, 120)
)


@dataclass
class Attempt:
    """What becomes known of one grant while it runs."""

    run: RunInference
    history: Sequence[Frame] = ()
    first_token_at: float | None = None
    load_ns: int = 0
    end: StreamEnd = field(default_factory=StreamEnd)

    @property
    def request(self) -> RequestInference:
        return self.run.request


class GaveBack(Exception):
    """The engine died under the request: another attempt may do better, so the lease goes back to the scheduler."""


async def take(ctx: Context, run: RunInference, delivery: Delivery) -> None:
    """Run one grant to its end and settle its lease."""
    request_id = run.request.request_id
    running = ctx.running.get(request_id)
    if running is None or running.epoch < run.epoch:
        if running is not None:
            running.job.cancel()  # an earlier attempt of ours that has been overtaken
        running = Running(
            run.epoch, run.request.model.runner, asyncio.create_task(_run(ctx, run), name=f"run {request_id}")
        )
        ctx.running[request_id] = running
        _running.set(len(ctx.running))
    await _settle(ctx, run, running, delivery)


async def _settle(ctx: Context, run: RunInference, running: Running, delivery: Delivery) -> None:
    """Wait for the job, which a redelivery of the same grant shares, and answer the broker."""
    try:
        await asyncio.wait({running.job})
    except asyncio.CancelledError:
        running.job.cancel()
        raise
    finally:
        if ctx.running.get(run.request.request_id) is running:
            del ctx.running[run.request.request_id]
        _running.set(len(ctx.running))
    error = None if running.job.cancelled() else running.job.exception()
    if error is not None:
        log.info("gave up", request_id=run.request.request_id, epoch=run.epoch, why=str(error))
    if error is None or isinstance(error, Ended):
        await delivery.ack()
    else:
        await delivery.requeue()  # to the scheduler, which knows whether anybody has it


def cancel(ctx: Context, request_id: str) -> None:
    """Nobody waits for it: stop generating and free the slot."""
    ctx.cancelled[request_id] = None
    if (running := ctx.running.get(request_id)) is not None and not running.ending:
        running.job.cancel()


async def _run(ctx: Context, run: RunInference) -> None:
    attempt = Attempt(run)
    request_log, attempt.history = await _open_log(ctx, run)
    attributes: Attributes = {"ollamamax.request_id": run.request.request_id, "ollamamax.epoch": run.epoch}
    with internal_span("worker.inference", attributes) as span:
        error = await _attempt(ctx, attempt, request_log)
        _begin_to_end(ctx, run.request.request_id)
        if error is not None:
            mark_failed(span, error.code)
            attempt.end = StreamEnd("error", attempt.end.usage, StreamError(error.code, error.message))
        await request_log.finish(attempt.end)
    await _announce(ctx, attempt, error)


def _begin_to_end(ctx: Context, request_id: str) -> None:
    """From here on a cancel comes too late: the end is written and announced."""
    running = ctx.running.get(request_id)
    if running is not None and running.job is asyncio.current_task():
        running.ending = True


async def _attempt(ctx: Context, attempt: Attempt, request_log: RequestLog) -> ServiceError | None:
    """The error the request ends with, if it does. Raises ``Fenced`` and ``GaveBack``."""
    request = attempt.request
    try:
        async with asyncio.timeout(request.deadline - time.time()):
            attempt.end = await _produce(ctx, attempt, request_log)
        return None
    except asyncio.CancelledError:
        if request.request_id not in ctx.cancelled:
            raise  # the process is going down: the lease returns by itself
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
        return RequestCancelled()
    except TimeoutError:
        return DeadlineExceeded()
    except (ModelLoadFailed, ReplayDiverged) as error:
        return error
    except EngineFailed as error:
        log.warning("engine failed, giving back", request_id=request.request_id, error=error.message)
        _attempts.labels("gave_back").inc()
        raise GaveBack from error
    except ServiceError as error:
        return error
    except Fenced:
        raise
    except Exception as crash:
        log.error("unexpected failure", request_id=request.request_id, exc_info=crash)
        return ServiceError()


async def _open_log(ctx: Context, run: RunInference) -> tuple[RequestLog, list[Frame]]:
    """Redis may be restarting: wait for it as long as the request's deadline allows."""
    while True:
        try:
            return await ctx.log_writer.open(run.request.request_id, run.epoch, run.request.channel)
        except RedisError as error:
            if time.time() > run.request.deadline:
                raise Fenced("its deadline passed while Redis was away") from error
            await asyncio.sleep(0.2)


async def _read_task(ctx: Context, request: RequestInference) -> InferenceTask:
    """Raises ``StreamLost`` if a task stored by reference is gone."""
    body: str | bytes | None = request.task_json
    if body is None:
        try:
            body = await ctx.redis.get(task_key(request.request_id))
        except RedisError as error:
            raise Unavailable from error
    if body is None:
        raise StreamLost
    parse = InferenceTask.model_validate_json
    return await asyncio.to_thread(parse, body) if request.task_json is None else parse(body)


async def _produce(ctx: Context, attempt: Attempt, request_log: RequestLog) -> StreamEnd:
    request = attempt.request
    if request.request_id in ctx.cancelled:  # the cancel was quicker than the grant
        raise RequestCancelled
    task = await _read_task(ctx, request)
    began = time.perf_counter_ns()
    async with AsyncExitStack() as stack:
        with internal_span("worker.load"):
            use = ctx.models.use(request.model, task.options.num_ctx, task.keep_alive_seconds)
            loaded = await stack.enter_async_context(use)
        attempt.load_ns = time.perf_counter_ns() - began
        _load_seconds.observe(attempt.load_ns / 1e9)
        if task.kind == "load":
            return StreamEnd("load", Usage(load_ns=attempt.load_ns))
        if task.kind == "embed":
            return await _embed(loaded, task, attempt)
        return await _generate(loaded, task, attempt, request_log)


async def _embed(loaded: LoadedEngine, task: InferenceTask, attempt: Attempt) -> StreamEnd:
    began = time.perf_counter_ns()
    result = await loaded.embed(task)
    _tokens.labels("input").inc(result.prompt_tokens)
    usage = Usage(result.prompt_tokens, 0, attempt.load_ns, time.perf_counter_ns() - began, 0)
    return StreamEnd("stop", usage, embeddings=result.vectors)


async def _generate(loaded: LoadedEngine, task: InferenceTask, attempt: Attempt, request_log: RequestLog) -> StreamEnd:
    """Continue from the logged token ids where that is exact, else generate again and suppress what was sent."""
    written = [token for frame in attempt.history for token in frame.token_ids]
    job = Job(attempt.request.request_id, task, attempt.request.model)
    resumes = bool(attempt.history) and loaded.can_resume(job)
    if resumes and 0 < task.options.num_predict <= len(written):
        return StreamEnd("length", Usage(0, len(written), attempt.load_ns))
    replay = None if resumes else Replay.of(attempt.history)
    finish: Finish | None = None
    with internal_span("worker.generate", {"gen_ai.request.model": attempt.request.model.name}) as span:
        async with aclosing(loaded.generate(replace(job, resume=tuple(written) if resumes else ()))) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finish):
                    finish = piece
                elif new := replay.after(piece) if replay else piece:
                    attempt.first_token_at = attempt.first_token_at or time.time()
                    request_log.write(new.text, new.token_ids, new.thinking, new.tool_calls, new.logprobs)
        if finish is None:
            raise EngineFailed("the engine ended without saying why")
        if replay is not None:
            replay.finish()
        usage = _usage(finish, attempt, len(written) if resumes else 0)
        span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
    _tokens.labels("input").inc(finish.prompt_tokens)
    _tokens.labels("output").inc(finish.completion_tokens)
    return StreamEnd(
        finish.done_reason,
        usage,
        context=list(finish.context),
        rendered=finish.rendered,
        image_count=finish.image_count,
    )


def _usage(finish: Finish, attempt: Attempt, earlier_tokens: int) -> Usage:
    """Billed once: the prompt, and every token of the answer whichever attempt made it."""
    return Usage(
        finish.prompt_tokens,
        earlier_tokens + finish.completion_tokens,
        attempt.load_ns,
        finish.prompt_ns,
        finish.completion_ns,
    )


def _outcome(error: ServiceError | None) -> str:
    if error is None:
        return "done"
    return "cancelled" if isinstance(error, RequestCancelled) else "failed"


async def _announce(ctx: Context, attempt: Attempt, error: ServiceError | None) -> None:
    request, usage, outcome = attempt.request, attempt.end.usage, _outcome(error)
    _attempts.labels(outcome).inc()
    if request.task_json is None:
        await _delete_task(ctx, request.request_id)
    event = InferenceFinished.model_validate(
        {
            **request.model_dump(include={"request_id", "organization_id", "user_id", "key_id", "kind", "accepted_at"}),
            "epoch": attempt.run.epoch,
            "worker_id": ctx.instance,
            "model": request.model.name,
            "outcome": outcome,
            "done_reason": attempt.end.done_reason,
            "error_code": error.code if error else None,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "granted_at": attempt.run.granted_at,
            "first_token_at": attempt.first_token_at,
            "finished_at": time.time(),
        }
    )
    await _publish_until_taken(ctx, event)


async def _delete_task(ctx: Context, request_id: str) -> None:
    try:
        await ctx.redis.delete(task_key(request_id))
    except RedisError as error:
        log.warning("could not delete a finished task; it expires", request_id=request_id, error=str(error))


async def _publish_until_taken(ctx: Context, event: InferenceFinished) -> None:
    """The answer is complete; only the books wait. While the broker restarts, so do we."""
    while True:
        try:
            await ctx.bus.publish(event)
            return
        except Unavailable:
            log.warning("waiting for the broker to take the end of a request", request_id=event.request_id)
            await asyncio.sleep(0.5)
