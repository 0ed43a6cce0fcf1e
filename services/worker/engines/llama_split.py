"""A plain completion taken apart into thinking, text and tool calls, for prompts of a Modelfile's template."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from services.worker.engines.base import Finish, Job, Piece
from services.worker.engines.conversation import thinks
from services.worker.engines.llama_completion import complete, seed_at
from services.worker.engines.llama_process import LlamaProcess
from services.worker.engines.llama_prompt import Prompt
from services.worker.engines.llama_template import Template
from services.worker.engines.thinking import Split, ThinkingSplitter
from services.worker.engines.tool_calls import CallNumbering, ToolCallSplitter


@dataclass
class AnswerSplitter:
    """``thinking`` or ``calls`` None: not looked for. Thinking nobody asked for is dropped."""

    thinking: ThinkingSplitter | None
    calls: ToolCallSplitter | None
    shows_thinking: bool

    def after(self, piece: Piece) -> Piece:
        return self._piece(self.thinking.add(piece.text) if self.thinking else Split("", piece.text), piece)

    def finish(self) -> Piece:
        """What was held back when the answer ended."""
        last = self._piece(self.thinking.finish() if self.thinking else Split(), Piece())
        return replace(last, text=last.text + self.calls.finish()) if self.calls else last

    def _piece(self, split: Split, piece: Piece) -> Piece:
        content, calls = self.calls.add(split.content) if self.calls else (split.content, ())
        thinking = split.thinking if self.shows_thinking else ""
        return Piece(content, thinking=thinking, tool_calls=calls, logprobs=piece.logprobs)


def splitter_for(job: Job, template: Template, prompt: Prompt) -> AnswerSplitter | None:
    """None: the answer is nothing but text."""
    task, model = job.task, job.model
    thinking = None
    if "thinking" in model.capabilities and not task.raw and not task.suffix:
        thinking = ThinkingSplitter(template.tags, inside=prompt.text.rstrip().endswith(template.tags.opening))
    calls = None
    if task.tools:
        names = {str(tool["function"]["name"]) for tool in task.tools}
        calls = ToolCallSplitter(template.tool_tag, names, CallNumbering(job.request_id))
    return AnswerSplitter(thinking, calls, thinks(task, model)) if thinking or calls else None


async def complete_apart(
    process: LlamaProcess, job: Job, splitter: AnswerSplitter, ids: list[int], request: dict[str, Any]
) -> AsyncGenerator[Piece | Finish, None]:
    """As ``complete``, but pieces have no token ids. A schema binds only what comes after the thinking."""
    thought: list[int] = []
    began = time.perf_counter_ns()
    if splitter.thinking is not None and "json_schema" in request:
        async with aclosing(_think(process, job, splitter, ids, request, thought=thought)) as parts:
            async for part in parts:
                yield part
                if isinstance(part, Finish):
                    return
        splitter.thinking = None
        seed = seed_at(request["seed"], len(thought))
        request = request | {"n_predict": request["n_predict"] - len(thought), "seed": seed}
    took_ns = time.perf_counter_ns() - began if thought else 0
    async with aclosing(complete(process, job.task, [*ids, *thought], request)) as parts:
        async for part in parts:
            if isinstance(part, Piece):
                if (new := splitter.after(part)) != _NOTHING:
                    yield new
            else:
                if (last := splitter.finish()) != _NOTHING:
                    yield last
                tokens = part.completion_tokens + len(thought)
                yield replace(part, completion_tokens=tokens, completion_ns=part.completion_ns + took_ns)


async def _think(
    process: LlamaProcess,
    job: Job,
    splitter: AnswerSplitter,
    ids: list[int],
    request: dict[str, Any],
    *,
    thought: list[int],
) -> AsyncGenerator[Piece | Finish, None]:
    """Without the schema until the thinking is over; its ids are added to ``thought``. A finish if nothing follows."""
    assert splitter.thinking is not None
    free = {name: value for name, value in request.items() if name != "json_schema"}
    async with aclosing(complete(process, job.task, ids, free)) as parts:
        async for part in parts:
            if isinstance(part, Finish):
                yield splitter.finish()
                yield part
                return
            new = splitter.after(part)
            if splitter.thinking.settled and not splitter.thinking.found:
                return  # it does not think: what it began to say instead is not used
            thought += part.token_ids
            if splitter.thinking.settled:
                yield replace(new, text="")
                if len(thought) >= request["n_predict"]:
                    yield Finish("length", 0, len(thought), 1, 1)
                return
            yield new


_NOTHING: Final = Piece()
