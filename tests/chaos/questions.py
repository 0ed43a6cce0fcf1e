"""What is asked, and what must come: of echo answers every unit; of a real model's only how many."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any, Final

GENERATE, CHAT, EMBED = "/api/v1/inference/generate", "/api/v1/inference/chat", "/api/embed"
TOOLS: Final = ("add", "sub", "mul", "div")
THINKING_TOKENS: Final = 8
VECTOR: Final = "vector"
REAL_MODEL: Final = "smollm2:135m"
REAL_TOKENS: Final = 48


@dataclass(frozen=True)
class Question:
    """``units``: the words, calls and vectors of the answer, in order; None: a real model's, which nobody knows."""

    kind: str
    path: str
    body: dict[str, Any]
    units: tuple[str, ...] | None
    text: str | None = None
    tokens: int = 0
    """That the answer must be billed; 0: as many as its model likes."""

    logprobs: tuple[str, ...] = ()
    replayed: bool = False
    """Another worker generates it from its beginning again, for it cannot be continued: it takes as long again."""


def words(tokens: int) -> list[str]:
    return [f"w{i}" for i in range(tokens)]


class Questions:
    """``rate``: about so many tokens a second has each echo answer; each rate is a model of its own."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._rates = cycle((rate - 1, rate, rate + 1))
        self._numbers = count()
        self._kinds = cycle((self._generate, self._chat, self._json, self._generate, self._thinking, self._chat,
                             self._batch, self._tools, self._generate, self._logprobs, self._embed))  # fmt: skip

    def echo(self) -> Iterator[Question]:
        for make in self._kinds:
            number = next(self._numbers)
            yield make(f"question {number}", 4 * self._rate + number * 7 % (2 * self._rate))

    def _generate(self, prompt: str, tokens: int, **more: Any) -> Question:
        body = {"model": f"echo-{next(self._rates)}", "prompt": prompt, "options": {"num_predict": tokens}, **more}
        said = words(tokens)
        return Question(str(more.get("priority", "generate")), GENERATE, body, tuple(said), " ".join(said), tokens)

    def _batch(self, prompt: str, tokens: int) -> Question:
        return self._generate(prompt, tokens, priority="batch")

    def _chat(self, prompt: str, tokens: int) -> Question:
        said = words(tokens)
        return Question("chat", CHAT, self._messages("echo", prompt, tokens), tuple(said), " ".join(said), tokens)

    def _json(self, prompt: str, tokens: int) -> Question:
        body = self._messages("echo", prompt, tokens, format="json")
        text = "{" + ", ".join(f'"w{i}": {i}' for i in range(tokens)) + "}"
        return Question("json", CHAT, body, tuple(words(tokens)), text, tokens, replayed=True)

    def _thinking(self, prompt: str, tokens: int) -> Question:
        said = words(tokens - THINKING_TOKENS)
        thought = [f"t{i}" for i in range(THINKING_TOKENS)]
        body = self._messages("echo-think", prompt, tokens)
        return Question("thinking", CHAT, body, (*thought, *said), " ".join(said), tokens, replayed=True)

    def _tools(self, prompt: str, tokens: int) -> Question:
        tools = [{"type": "function", "function": {"name": name}} for name in TOOLS]
        body = self._messages("echo-think-tools", prompt, tokens, tools=tools)
        thought = [f"t{i}" for i in range(THINKING_TOKENS)]
        return Question("tools", CHAT, body, (*thought, *TOOLS), "", THINKING_TOKENS + len(TOOLS), replayed=True)

    def _logprobs(self, prompt: str, tokens: int) -> Question:
        said = words(tokens)
        body = self._messages("echo", prompt, tokens, logprobs=True)
        return Question("logprobs", CHAT, body, tuple(said), " ".join(said), tokens, tuple(said), replayed=True)

    def _embed(self, prompt: str, tokens: int) -> Question:
        return Question("embed", EMBED, {"model": "echo", "input": prompt}, (VECTOR,))

    def _messages(self, model: str, prompt: str, tokens: int, **more: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        return {
            "model": f"{model}-{next(self._rates)}",
            "messages": messages,
            "options": {"num_predict": tokens},
            **more,
        }


def real() -> Iterator[Question]:
    """Of SmolLM2. ``ignore_eos`` is nothing we offer, so an answer may be shorter than it was allowed to be."""
    kinds: tuple[Callable[[str], Question], ...] = (_story, _logged_story, _object, _told_story)
    for number, make in enumerate(cycle(kinds)):
        yield make(f"Write a long story about the sea. It has {number + 3} ships.")


def _options(seed: int = 7) -> dict[str, Any]:
    return {"num_predict": REAL_TOKENS, "temperature": 0, "seed": seed}


def _story(prompt: str) -> Question:
    return Question("real", GENERATE, {"model": REAL_MODEL, "prompt": prompt, "options": _options()}, None)


def _logged_story(prompt: str) -> Question:
    body = {"model": REAL_MODEL, "prompt": prompt, "options": _options(), "logprobs": True}
    return Question("real logprobs", GENERATE, body, None)


def _object(prompt: str) -> Question:
    schema = {"type": "object", "properties": {"ship": {"type": "string"}}, "required": ["ship"]}
    body = {"model": REAL_MODEL, "prompt": prompt, "options": _options(), "format": schema}
    return Question("real json", GENERATE, body, None)


def _told_story(prompt: str) -> Question:
    body = {"model": REAL_MODEL, "messages": [{"role": "user", "content": prompt}], "options": _options()}
    return Question("real chat", CHAT, body, None)


def is_vector_of(text: str, vector: list[float]) -> bool:
    """As the echo engine makes it: normalised."""
    digest = hashlib.shake_128(" ".join(text.split()).encode()).digest(len(vector))
    numbers = [(byte - 127.5) / 127.5 for byte in digest]
    length = math.hypot(*numbers)
    return bool(vector) and all(abs(n / length - given) < 1e-3 for n, given in zip(numbers, vector, strict=True))
