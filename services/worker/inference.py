"""Use case: a grant becomes frames in the token log. The delivery is acknowledged last: the broker is the lease."""

import asyncio
import time
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

import structlog
from prometheus_client import Counter, Gauge, Histogram
from redis.exceptions import RedisError

from libs.common.bus.base import Delivery
from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.scheduler.inference import AttemptEnd, RequestInference
from libs.common.contracts.tokens import Frame, StreamEnd, StreamError, Usage
from libs.common.contracts.worker import KeepAliveChanged, RunInference
from libs.common.errors import (
    DeadlineExceeded,
    EngineFailed,
    ModelLoadFailed,
    ReplayDiverged,
    RequestCancelled,
    ServiceError,
    StreamLost,
    Unavailable,
    UpstreamFailed,
)
from libs.common.telemetry import Attributes, internal_span, mark_failed
from libs.common.token_log.store import task_key
from libs.common.token_log.writer import Ended, Fenced, RequestLog
from services.worker import endings
from services.worker.attempt import Attempt, Stop
from services.worker.context import Context
from services.worker.engines.base import Finish, Job, LoadedEngine
from services.worker.replay import Replay
from services.worker.whole_answers import whole_answer

log = structlog.get_logger(__name__)

_running = Gauge("worker_requests_running", "Requests this worker runs")
_tokens = Counter("worker_tokens_total", "Tokens by direction", ["direction"])
_load_seconds = Histogram(
    "worker_model_wait_seconds", "Waiting for the model of a request", buckets=(0.001, 0.01, 0.1, 1, 5, 30, 120)
)


class HandBack(Exception):
    """This process cannot go on with a request; another attempt may do better."""

    def __init__(self, why: AttemptEnd, message: str = "") -> None:
        super().__init__(why)
        self.why, self.message = why, message


async def take(ctx: Context, run: RunInference, delivery: Delivery) -> None:
    """Run one grant to its end and settle its lease."""
    request_id = run.request.request_id
    attempt = ctx.running.get(request_id)
    if attempt is None or attempt.run.epoch < run.epoch:
        if attempt is not None:
            attempt.job.cancel()  # an earlier attempt of ours that has been overtaken
        # A cancel may have been quicker than the grant.
        attempt = ctx.running[request_id] = Attempt(run, stopped="cancelled" if request_id in ctx.cancelled else None)
        attempt.job = asyncio.create_task(_run(ctx, attempt), name=f"run {request_id}")
        _running.set(len(ctx.running))
    await _settle(ctx, attempt, delivery)


async def _settle(ctx: Context, attempt: Attempt, delivery: Delivery) -> None:
    """Wait for the job, which a redelivery of the same grant shares, and answer the broker."""
    request_id = attempt.request.request_id
    try:
        await asyncio.wait({attempt.job})
    except asyncio.CancelledError:
        attempt.job.cancel()
        raise
    finally:
        if ctx.running.get(request_id) is attempt:
            del ctx.running[request_id]
        _running.set(len(ctx.running))
    error = None if attempt.job.cancelled() else attempt.job.exception()
    if error is not None:
        log.info("gave up", request_id=request_id, epoch=attempt.run.epoch, why=str(error))
    if error is None or isinstance(error, Ended):
        await delivery.ack()
    else:
        await delivery.requeue()  # to the scheduler, which knows whether anybody has it


def cancel(ctx: Context, request_id: str) -> None:
    """Nobody waits for it: stop generating and free the slot."""
    ctx.cancelled[request_id] = None
    if (attempt := ctx.running.get(request_id)) is not None:
        attempt.stop("cancelled")


def preempt(ctx: Context, request_id: str, epoch: int) -> None:
    """Somebody else needs the slot: it goes on later from its log."""
    attempt = ctx.running.get(request_id)
    if attempt is not None and attempt.run.epoch == epoch and attempt.preemptible(time.time()):
        attempt.stop("preempted")


async def hand_back_all(ctx: Context, seconds: float) -> None:
    """This process goes: others go on at once with what it has not finished."""
    for attempt in ctx.running.values():
        attempt.stop("drained")
    await ctx.bus.drain(seconds)


async def _run(ctx: Context, attempt: Attempt) -> None:
    run = attempt.run
    request_log, history = await _open_log(ctx, run)
    attempt.go_on_after(history)
    attributes: Attributes = {"ollamamax.request_id": run.request.request_id, "ollamamax.epoch": run.epoch}
    with internal_span("worker.inference", attributes) as span:
        attempt.stage = "producing"
        try:
            error = await _attempt(ctx, attempt, request_log)
        except HandBack as back:
            attempt.stage = "ending"
            mark_failed(span, back.why)
            await endings.hand_back(ctx, attempt, request_log, back.why, back.message)
            return
        attempt.stage = "ending"
        if error is not None:
            mark_failed(span, error.code)
            told = StreamError(error.code, error.message, error.retry_after)
            attempt.end = StreamEnd("error", attempt.usage_so_far(), told)
        await request_log.finish(attempt.end)
    await endings.announce(ctx, attempt, error)


async def _attempt(ctx: Context, attempt: Attempt, request_log: RequestLog) -> ServiceError | None:
    """The error the request ends with, if it does. Raises ``Fenced`` and ``HandBack``."""
    request = attempt.request
    try:
        async with asyncio.timeout(request.deadline - time.time()):
            attempt.end = await _produce(ctx, attempt, request_log)
        return None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        if not task.cancelling():
            raise HandBack("drained") from None  # what it waited for was given up: the worker stops
        if attempt.stopped is None:
            raise  # overtaken, or the process is going down: the lease returns by itself
        task.uncancel()
        return _stopped(attempt.stopped)
    except TimeoutError:
        return DeadlineExceeded()
    except (ModelLoadFailed, ReplayDiverged, UpstreamFailed) as error:
        if why := _worth_another_attempt(attempt.run, error):
            raise HandBack(why, error.message) from error
        return error
    except EngineFailed as error:
        log.warning("engine failed", request_id=request.request_id, error=error.message)
        raise HandBack("engine_failed") from error
    except ServiceError as error:
        return error
    except (Fenced, HandBack):
        raise
    except Exception as crash:
        log.error("unexpected failure", request_id=request.request_id, exc_info=crash)
        return ServiceError()


def _worth_another_attempt(run: RunInference, error: EngineFailed) -> AttemptEnd | None:
    """As what this one ends then."""
    if isinstance(error, ModelLoadFailed) and run.others:
        return "load_failed"
    if isinstance(error, UpstreamFailed) and all(each.ended != "upstream_failed" for each in run.request.attempts):
        return "upstream_failed"
    return None


def _stopped(why: Stop) -> ServiceError:
    if why == "cancelled":
        return RequestCancelled()
    raise HandBack(why)


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
    if attempt.stopped is not None:
        raise _stopped(attempt.stopped)
    task = await _read_task(ctx, request)
    began = time.perf_counter_ns()
    async with AsyncExitStack() as stack:
        with internal_span("worker.load"):
            loaded = await stack.enter_async_context(ctx.models.use(request.model, task.options.num_ctx))
        attempt.load_ns = time.perf_counter_ns() - began
        _load_seconds.observe(attempt.load_ns / 1e9)
        seconds = task.keep_alive_seconds
        if seconds is not None and ctx.models.keep(request.model.runner, seconds):
            # Nobody waits for it on the way to the first token, but at the end of the answer all have been told.
            telling = asyncio.create_task(_tell_other_workers(ctx, request.model.runner, seconds), name="keep alive")
            stack.push_async_callback(asyncio.wait, {telling})
        if task.kind in {"chat", "generate"}:
            return await _generate(loaded, task, attempt, request_log)
        end = await whole_answer(loaded, task, attempt.load_ns)
        _tokens.labels("input").inc(end.usage.prompt_tokens)
        return end


async def _tell_other_workers(ctx: Context, runner: str, keep_alive_seconds: float) -> None:
    try:
        await ctx.bus.publish(KeepAliveChanged(worker_id=ctx.instance, runner=runner, seconds=keep_alive_seconds))
    except Unavailable as error:
        log.warning("other workers were not told how long to keep a model", runner=runner, error=error.message)


async def _generate(loaded: LoadedEngine, task: InferenceTask, attempt: Attempt, request_log: RequestLog) -> StreamEnd:
    """Continue from the logged token ids where that is exact, else generate again and suppress what was sent."""
    written = [token for frame in attempt.history for token in frame.token_ids]
    job = Job(attempt.request.request_id, task, attempt.request.model, spent=attempt.spent)
    resumes = bool(attempt.history) and loaded.can_resume(job)
    attempt.spent.completion_tokens = len(written) if resumes else 0
    replay = None if resumes else Replay.of(attempt.history)
    finish: Finish | None = None
    with internal_span("worker.generate", {"gen_ai.request.model": attempt.request.model.name}) as span:
        async with aclosing(loaded.generate(replace(job, resume=tuple(written) if resumes else ()))) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finish):
                    finish = piece
                    continue
                attempt.spent.completion_tokens += max(1, len(piece.token_ids))
                if new := replay.after(piece) if replay else piece:
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
        prompt_length=finish.prompt_length,
        image_count=finish.image_count,
        stop_sequence=finish.stop_sequence,
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
