"""A plain completion taken apart into thinking, text and tool calls, for prompts of a Modelfile's template."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final

from services.worker.engines.base import Finish, Job, Piece
from services.worker.engines.conversation import thinks
from services.worker.engines.grammar import call_grammar
from services.worker.engines.llama_completion import complete, must_call, seed_at
from services.worker.engines.llama_process import LlamaProcess
from services.worker.engines.llama_prompt import Prompt, cut
from services.worker.engines.llama_template import Template
from services.worker.engines.llama_tokens import tokenize_inside
from services.worker.engines.thinking import Split, ThinkingSplitter
from services.worker.engines.tool_calls import CallNumbering, ToolCallSplitter


@dataclass
class AnswerSplitter:
    """``thinking`` or ``calls`` None: not looked for. Thinking nobody asked for is dropped.

    ``only_call``: all after the first call is dropped.
    """

    thinking: ThinkingSplitter | None
    calls: ToolCallSplitter | None
    shows_thinking: bool
    only_call: bool = False

    def after(self, piece: Piece) -> Piece:
        return self._piece(self.thinking.add(piece.text) if self.thinking else Split("", piece.text), piece)

    def finish(self) -> Piece:
        """What was held back when the answer ended."""
        last = self._piece(self.thinking.finish() if self.thinking else Split(), Piece())
        return replace(last, text=last.text + self.calls.finish()) if self.calls else last

    def _piece(self, split: Split, piece: Piece) -> Piece:
        content, calls = self.calls.add(split.content) if self.calls else (split.content, ())
        thinking = split.thinking if self.shows_thinking else ""
        calls = calls[:1] if self.only_call else calls
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
    if not thinking and not calls:
        return None
    return AnswerSplitter(thinking, calls, thinks(task, model), only_call=not task.parallel_tool_calls)


async def complete_apart(
    process: LlamaProcess, job: Job, splitter: AnswerSplitter, ids: list[int], request: dict[str, Any], *, limit: int
) -> AsyncGenerator[Piece | Finish, None]:
    """As ``complete``, but pieces have no token ids. ``limit``: how many ids the server takes.

    A format binds only what comes after the thinking. So does a call that must come; after it the model goes on freely,
    with more calls or with what it writes behind the last one.
    """
    binding = {name: value for name, value in request.items() if name == "json_schema"}
    free = {name: value for name, value in request.items() if name not in binding}
    answer = _Answer(process, job, splitter, list(ids), free, limit)
    calls = must_call(job.task)
    steps = [answer.think()] if splitter.thinking is not None and (calls or binding) else []
    steps += [answer.call(), answer.go_on({})] if calls else [answer.go_on(binding)]
    for step in steps:
        async with aclosing(step) as parts:
            async for part in parts:
                if part != _NOTHING:
                    yield part
                if isinstance(part, Finish):
                    return


@dataclass
class _Answer:
    """Made in steps, since what binds one part of it does not bind the next: each goes on after the ids so far.

    A step yields a ``Finish``, of the whole answer, if that ends with it.
    """

    process: LlamaProcess
    job: Job
    splitter: AnswerSplitter
    ids: list[int]
    """Of the prompt and of all that has been made."""

    request: dict[str, Any]
    limit: int
    made: int = 0
    """In tokens."""

    began_ns: int = field(default_factory=time.perf_counter_ns)
    first_ns: int = 0

    async def think(self) -> AsyncGenerator[Piece | Finish, None]:
        """Until the thinking is over. If there is none, what the answer began with instead is not used."""
        thinking = self.splitter.thinking
        assert thinking is not None
        async with aclosing(self._complete({})) as parts:
            async for part in parts:
                if isinstance(part, Finish):
                    if part.done_reason == "stop" and not part.stop_sequence:
                        break  # it thought that this was all: what binds it has not come yet
                    yield self.splitter.finish()
                    yield part
                    return
                split = thinking.add(part.text)
                if thinking.settled and not thinking.found:
                    break
                self._keep(part)
                yield Piece(thinking=split.thinking if self.splitter.shows_thinking else "", logprobs=part.logprobs)
                if thinking.settled:
                    break
        self.splitter.thinking = None

    async def call(self) -> AsyncGenerator[Piece | Finish, None]:
        """One call, behind the tag in front of it, which the model need not write."""
        calls = self.splitter.calls
        assert calls is not None
        grammar = await call_grammar(self.job.task.tools)
        self.ids += await tokenize_inside(self.process, calls.expect(), special=True)
        async with aclosing(self.go_on({"grammar": grammar})) as parts:
            async for part in parts:
                if isinstance(part, Piece) or self.splitter.only_call or not calls.found:
                    yield part

    async def go_on(self, binding: dict[str, Any]) -> AsyncGenerator[Piece | Finish, None]:
        """To the end, or to the only call that is wanted."""
        async with aclosing(self._complete(binding)) as parts:
            async for part in parts:
                if isinstance(part, Finish):
                    yield self.splitter.finish()
                    yield part
                    return
                self._keep(part)
                new = self.splitter.after(part)
                yield new
                if new.tool_calls and self.splitter.only_call:
                    now = time.perf_counter_ns()
                    yield Finish("stop", 0, self.made, self.first_ns - self.began_ns, now - self.first_ns)
                    return

    def _keep(self, piece: Piece) -> None:
        self.first_ns = self.first_ns or time.perf_counter_ns()
        self.ids += piece.token_ids
        self.made += len(piece.token_ids)

    async def _complete(self, binding: dict[str, Any]) -> AsyncGenerator[Piece | Finish, None]:
        before, earlier_ns = self.made, time.perf_counter_ns() - self.began_ns
        room = self.request["n_predict"] - before
        if room <= 0:
            yield Finish("length", 0, before, 1, max(1, earlier_ns))
            return
        request = self.request | binding | {"n_predict": room, "seed": seed_at(self.request["seed"], before)}
        ids = cut(self.ids, self.request["n_keep"], self.limit)
        async with aclosing(complete(self.process, self.job.task, ids, request)) as parts:
            async for part in parts:
                if isinstance(part, Finish):
                    tokens, took_ns = before + part.completion_tokens, earlier_ns + part.completion_ns
                    yield replace(part, completion_tokens=tokens, completion_ns=took_ns)
                else:
                    yield part


_NOTHING: Final = Piece()
