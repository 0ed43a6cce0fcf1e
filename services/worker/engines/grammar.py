"""What binds an answer, in the words of llguidance, the grammar library of llama.cpp's server.

The server ignores a grammar it cannot compile, so the library is asked before it is sent.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from llguidance import LLMatcher

from libs.common.contracts.inference import OutputFormat
from libs.common.errors import InvalidRequest
from services.worker.engines.json_schema import arguments_schema, grammar_schema


def format_schema(output: OutputFormat) -> dict[str, Any]:
    return grammar_schema(output if isinstance(output, dict) else {"type": "object"})


async def check_format(output: OutputFormat) -> None:
    """Raises ``InvalidRequest``."""
    if output is not None:
        await _check("format", LLMatcher.grammar_from_json_schema(format_schema(output)))


async def call_grammar(tools: Sequence[dict[str, Any]]) -> str:
    """One call of one of the tools and nothing else, as the server takes it. Raises ``InvalidRequest``.

    Each tool's parameters are a document of their own in it, so that what refers to its root finds it.
    """
    names = " | ".join(f"call_{index}" for index in range(len(tools)))
    calls = [_call(index, tool["function"]) for index, tool in enumerate(tools)]
    grammar = "\n".join([f'start: "\\n"? ({names})', *calls])
    await _check("tools", LLMatcher.grammar_from_lark(grammar))
    return f"%llguidance {{}}\n{grammar}"


def _call(index: int, function: dict[str, Any]) -> str:
    """Strings of the grammar are JSON's. Models are trained on either word for the arguments."""
    opening = _json(f'{{"name": {_json(function["name"])}, "')
    colon, arguments = _json('": '), _json(arguments_schema(function.get("parameters") or {}))
    call = f'{opening} ("arguments" | "parameters") {colon} args_{index} "}}"'
    return f"call_{index}: {call}\nargs_{index}: %json {arguments}"


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


async def _check(what: str, grammar: str) -> None:
    if problem := await asyncio.to_thread(LLMatcher.validate_grammar, grammar):
        raise InvalidRequest(f"invalid {what}: {problem.splitlines()[0]}")
