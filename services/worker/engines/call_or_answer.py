"""Where a model may call a tool or answer in a format: what binds the answer to its format would forbid a call."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from services.worker.engines.base import Finish, Piece

Answer = AsyncGenerator[Piece | Finish, None]


async def call_or_answer(free: Answer, bound: Answer) -> Answer:
    """``free`` if it calls a tool at once, else ``bound``, which has the format.

    Words that the free one begins with are not used. Its thinking is: the bound one thinks the same again, unseen.
    """
    called = False
    async with aclosing(free) as parts:
        async for part in parts:
            if isinstance(part, Finish):
                if called or part.done_reason == "length":
                    yield part
                    return
                break
            called = called or bool(part.tool_calls)
            if called:
                yield part
            elif part.thinking or not part.text:
                yield replace(part, text="")
            if part.text.strip() and not called:
                break
    answers = False
    async with aclosing(bound) as parts:
        async for part in parts:
            answers = answers or isinstance(part, Finish) or bool(part.text or part.tool_calls)
            if answers:
                yield replace(part, thinking="", logprobs=()) if isinstance(part, Piece) and part.thinking else part
