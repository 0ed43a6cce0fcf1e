"""Plain completion by token ids: the quick path, whose answers another worker can continue."""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import msgspec

from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.tokens import Logprob
from services.worker.engines.base import BANS, Finish, Piece
from services.worker.engines.grammar import format_schema
from services.worker.engines.llama_process import LlamaProcess
from services.worker.engines.llama_tokens import detokenize, tokenize_inside
from services.worker.engines.openai_wire import read_logprobs

FINAL_FIELDS: Final = ["stop", "stop_type", "stopping_word", "tokens_predicted", "timings"]


def sampling(task: InferenceTask, budget: int, context_length: int, position: int = 0) -> dict[str, Any]:
    """``position``: how many tokens of the answer are there already.

    Negative: for num_keep the whole prompt, for repeat_last_n the whole context. The server refuses some of it.
    """
    options = task.options
    request: dict[str, Any] = {
        "n_predict": budget,
        "n_keep": max(-1, options.num_keep),
        "stream": True,
        "return_progress": True,  # a sign of life, and a chance to notice that the client went away
        "cache_prompt": True,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "typical_p": options.typical_p,
        "repeat_last_n": options.repeat_last_n if options.repeat_last_n >= 0 else context_length,
        "repeat_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "seed": seed_at(options.seed, position),
        "stop": [stop for stop in options.stop if stop],
    }
    if options.logit_bias:
        never = False  # the server's word for it
        request["logit_bias"] = [[token, bias if bias > BANS else never] for token, bias in options.logit_bias]
    if task.format is not None and not must_call(task):
        request["json_schema"] = format_schema(task.format)
    if task.logprobs:
        request["n_probs"] = max(1, task.top_logprobs)
    return request


def must_call(task: InferenceTask) -> bool:
    """Then there is no answer in words that could have a format."""
    return bool(task.tools) and task.tool_choice == "required"


def seed_at(seed: int, position: int) -> int:
    """The server begins its random numbers anew with each call. A continuation must not draw those of the beginning
    again, which have chosen the tokens that it goes on from: each position has numbers of its own.
    """
    if position:
        digest = hashlib.blake2b(f"{seed} {position}".encode(), digest_size=4).digest()
        seed = int.from_bytes(digest, "big")
    return seed % 0xFFFFFFFF  # the one above means random


async def complete(
    process: LlamaProcess, task: InferenceTask, ids: list[int], request: dict[str, Any]
) -> AsyncGenerator[Piece | Finish, None]:
    """Pieces, and at last how it ended, without a count of the prompt. ``request`` as of ``sampling``.

    The server keeps back the text of a possible stop string but delivers its ids; of an unfinished character it
    keeps back the ids too and delivers only the last, so those are counted, and made again from the text.
    """
    held: list[int] = []
    probabilities: tuple[Logprob, ...] = ()
    paired = 0
    body = request | {"prompt": ids, "return_tokens": True, "response_fields": FINAL_FIELDS}
    async with aclosing(process.stream("/completion", body)) as events:
        async for event in events:
            if event.get("stop"):
                if held and event["stop_type"] == "limit" and (text := await _held_text(process, held, event, paired)):
                    yield Piece(text, tuple(held), logprobs=probabilities)
                yield _finish(event)
            elif "prompt_progress" not in event:
                held += event["tokens"]
                if task.logprobs:
                    probabilities += read_logprobs(event.get("completion_probabilities", ()), task.top_logprobs)
                if text := event["content"]:
                    count = event["tokens_predicted"] - paired
                    if len(held) != count:
                        held = await tokenize_inside(process, text, special=False)
                        probabilities = _of_a_character(text, probabilities)
                    yield Piece(text, tuple(held), logprobs=probabilities)
                    held, probabilities, paired = [], (), event["tokens_predicted"]


def _of_a_character(text: str, probabilities: tuple[Logprob, ...]) -> tuple[Logprob, ...]:
    """Of a character made of several tokens only the last is told: it stands for the whole."""
    return (
        tuple(msgspec.structs.replace(last, token=text, data=text.encode()) for last in probabilities)
        if len(probabilities) == 1
        else probabilities
    )


async def _held_text(process: LlamaProcess, held: list[int], final: dict[str, Any], paired: int) -> str:
    """Text the server still held back when the budget was used up; empty if it ends in half a character."""
    if final["tokens_predicted"] - paired != len(held):
        return ""
    text = await detokenize(process, held)
    return "" if "\ufffd" in text else text


def _finish(final: dict[str, Any]) -> Finish:
    timings = final["timings"]
    return Finish(
        done_reason="length" if final["stop_type"] == "limit" else "stop",
        prompt_tokens=0,
        completion_tokens=final["tokens_predicted"],
        prompt_ns=max(1, int(timings["prompt_ms"] * 1e6)),
        completion_ns=max(1, int(timings["predicted_ms"] * 1e6)),
        stop_sequence=final["stopping_word"],
    )
