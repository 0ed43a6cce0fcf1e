"""Chat through the server's own parser: it knows how each family of models writes its thinking and tool calls."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from services.worker.engines.base import Finish, Job, Piece
from services.worker.engines.conversation import thinks
from services.worker.engines.images import check_images
from services.worker.engines.llama_process import LlamaProcess
from services.worker.engines.llama_prompt import Prompt
from services.worker.engines.llama_template import template_arguments
from services.worker.engines.openai_wire import read_logprobs, wire_messages
from services.worker.engines.tool_calls import CallNumbering, StreamedCalls


async def chat(
    process: LlamaProcess, job: Job, prompt: Prompt, request: dict[str, Any]
) -> AsyncGenerator[Piece | Finish, None]:
    """Pieces without token ids, and at last how it ended. ``request`` as of ``sampling``.

    Tokens that only mark where thinking or a call begins and ends have no logprobs.
    """
    await asyncio.to_thread(check_images, prompt.messages)
    messages = await asyncio.to_thread(wire_messages, prompt.messages, reasoning=True)
    body = request | {"messages": messages} | template_arguments(job) | _ENDING
    calls = StreamedCalls(CallNumbering(job.request_id), only_one=not job.task.parallel_tool_calls)
    shows_thinking, stop_sequence = thinks(job.task, job.model), ""
    async with aclosing(process.stream("/v1/chat/completions", body)) as events:
        async for event in events:
            stop_sequence = event.get("__verbose", {}).get("stopping_word", "") or stop_sequence
            for choice in event.get("choices", ()):
                delta, reason = choice.get("delta") or {}, choice.get("finish_reason")
                whole = calls.add(delta.get("tool_calls") or ())
                piece = Piece(
                    text=delta.get("content") or "",
                    thinking=(delta.get("reasoning_content") or "") if shows_thinking else "",
                    tool_calls=whole + calls.finish() if reason else whole,
                    logprobs=read_logprobs((choice.get("logprobs") or {}).get("content") or (), job.task.top_logprobs),
                )
                if piece != _NOTHING:
                    yield piece
                if reason:
                    yield _finish(reason, event["timings"], stop_sequence)


_NOTHING: Final = Piece()

_ENDING: Final = {"verbose": True, "response_fields": ["stopping_word"]}
"""OpenAI's protocol does not tell which stop string ended an answer: the server does, beside the last text there is."""


def _finish(reason: str, timings: dict[str, Any], stop_sequence: str) -> Finish:
    return Finish(
        done_reason="length" if reason == "length" else "stop",
        prompt_tokens=timings["cache_n"] + timings["prompt_n"],
        completion_tokens=timings["predicted_n"],
        prompt_ns=max(1, int(timings["prompt_ms"] * 1e6)),
        completion_ns=max(1, int(timings["predicted_ms"] * 1e6)),
        stop_sequence=stop_sequence,
    )
