"""The same conversation through all dialects: the same answer, whoever dies meanwhile, byte for byte."""

import asyncio
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from libs.common.contracts.inference import InferenceTask, SamplingOptions
from tests.e2e.contract import PIXEL
from tests.e2e.sdks import slots_are_free, words
from tests.fixtures.conversation import ANSWER, CALLS, QUESTION, RESULTS, SYSTEM, THANKS, TOOLS
from tests.fixtures.dialects import DIALECTS, Body, Dialect, Said
from tests.fixtures.streams import pinned
from tests.fixtures.suite import Suite, eventually

pytestmark = pytest.mark.e2e

GOLDEN = Path(__file__).with_name("golden")
THOUGHTS = " ".join(f"t{number}" for number in range(8))
ONE_WORD = SamplingOptions(num_predict=1)
SHORT = SamplingOptions(num_predict=5)
TWO_WORDS = SamplingOptions(num_predict=10)
"""After the thoughts."""

LONG = SamplingOptions(num_predict=100)
"""Five seconds at 20 tokens a second."""

by_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def a_task(*messages: Any, options: SamplingOptions = LONG, **fields: Any) -> InferenceTask:
    return InferenceTask(kind="chat", messages=messages, options=options, **fields)


@dataclass(frozen=True)
class Case:
    """``said``: but for the tokens of the prompt, which are its words."""

    model: str
    task: InferenceTask
    said: Said

    @property
    def expected(self) -> Said:
        prompt = sum(len(message.content.split()) for message in self.task.messages)
        return replace(self.said, usage=(prompt, self.said.usage[1]))


CASES = {
    "a question": Case("echo", a_task(SYSTEM, QUESTION, options=SHORT), Said("", words(5), (), True, (0, 5))),
    "a history": Case(
        "echo-think-tools",
        a_task(SYSTEM, QUESTION, CALLS, *RESULTS, ANSWER, THANKS, tools=TOOLS, think="low"),
        Said(THOUGHTS, "", (("weather", {"city": "a0"}), ("time", {"city": "a0"})), False, (0, 10)),
    ),
    "results of tools": Case(
        "echo-tools",
        a_task(SYSTEM, QUESTION, CALLS, *RESULTS, options=SHORT, tools=TOOLS),
        Said("", words(5), (), True, (0, 5)),
    ),
    "a form": Case(
        "echo", a_task(QUESTION, options=ONE_WORD, format={"type": "object"}), Said("", '{"w0": 0}', (), False, (0, 1))
    ),
}


@by_dialect
@pytest.mark.parametrize("name", CASES)
async def test_the_same_is_answered(http: httpx.AsyncClient, name: str, dialect: Dialect) -> None:
    case = CASES[name]
    response = await http.post(dialect.path, json=dialect.ask(case.model, case.task))
    assert response.status_code == 200, response.text
    assert dialect.read(response.json()) == case.expected


@by_dialect
async def test_who_cannot_see_is_shown_nothing(http: httpx.AsyncClient, dialect: Dialect) -> None:
    task = a_task(QUESTION.model_copy(update={"images": (PIXEL,)}))
    response = await http.post(dialect.path, json=dialect.ask("echo", task))
    assert response.status_code == 400
    assert "this model is missing data required for image input" in response.text


@dataclass(frozen=True)
class Stream:
    path: str
    body: Body


def streams_of(model: str, task: InferenceTask) -> dict[str, Stream]:
    """Of a chat in each dialect, by name."""
    return {
        dialect.name: Stream(dialect.path, {**dialect.ask(model, task), "stream": True, **USAGE.get(dialect.name, {})})
        for dialect in DIALECTS
    }


USAGE: dict[str, Body] = {"chat": {"stream_options": {"include_usage": True}}}


def texts_of(model: str, prompt: str, tokens: int) -> dict[str, Stream]:
    """Of a prompt, in the two dialects that know such a thing."""
    completion = {"model": model, "prompt": prompt, "max_tokens": tokens, "stream": True, **USAGE["chat"]}
    generate = {"model": model, "prompt": prompt, "options": {"num_predict": tokens}}
    return {"generate": Stream("/api/generate", generate), "completions": Stream("/v1/completions", completion)}


ALL = {
    "text": streams_of("echo", a_task(SYSTEM, QUESTION, options=SHORT)) | texts_of("echo", "how late is it?", 5),
    "thoughts": streams_of("echo-think", a_task(QUESTION, options=TWO_WORDS, think="low"))
    | texts_of("echo-think", "how late is it?", 10),
    "calls": streams_of("echo-think-tools", a_task(QUESTION, tools=TOOLS, think="low")),
    "form": streams_of("echo", a_task(QUESTION, options=SHORT, format={"type": "object"})),
}
STREAMS = {f"{name}_{what}": stream for what, streams in ALL.items() for name, stream in streams.items()}


@pytest.mark.parametrize("name", STREAMS)
async def test_golden(http: httpx.AsyncClient, name: str) -> None:
    response = await http.post(STREAMS[name].path, json=STREAMS[name].body)
    assert response.status_code == 200, response.text
    assert pinned(response.content) == (GOLDEN / f"{name}.txt").read_bytes()


SPEED = "-20"
"""Tokens a second, as the names of models say it."""

SLOW = streams_of("echo-20", a_task(QUESTION)) | texts_of("echo-20", "how late is it?", 100)
THOUGHTFUL = streams_of("echo-think-20", a_task(QUESTION, think="low"))
"""They are made again when they are broken off, not continued."""


class Listener:
    """To one stream, in the background."""

    def __init__(self, http: httpx.AsyncClient, stream: Stream) -> None:
        self.content = b""
        self.stream = stream
        self._http = http

    async def listen(self) -> bytes:
        async with self._http.stream("POST", self.stream.path, json=self.stream.body) as answer:
            async for piece in answer.aiter_bytes():
                self.content += piece
        return self.content

    async def has_begun(self) -> bool:
        return bool(re.search(rb"[tw]1", self.content))


@pytest.mark.chaos
async def test_killed_in_the_middle(suite: Suite, http: httpx.AsyncClient) -> None:
    """All workers at once, so that every stream is hit."""
    listeners = [Listener(http, stream) for stream in (*SLOW.values(), *THOUGHTFUL.values())]
    async with asyncio.TaskGroup() as tasks:
        heard = [tasks.create_task(listener.listen()) for listener in listeners]
        for listener in listeners:
            await eventually(listener.has_begun, f"{listener.stream.path} speaks")
        for worker in suite.workers():
            worker.kill()
        await suite.start(*(name for name, process in suite.processes.items() if process.service == "worker"))
    for listener, task in zip(listeners, heard, strict=True):
        quick = {**listener.stream.body, "model": listener.stream.body["model"].removesuffix(SPEED)}
        undisturbed = await Listener(http, Stream(listener.stream.path, quick)).listen()
        assert pinned(task.result()).replace(SPEED.encode(), b"") == pinned(undisturbed)


@pytest.mark.parametrize("name", SLOW)
async def test_a_stream_that_is_closed_frees_its_slot(suite: Suite, http: httpx.AsyncClient, name: str) -> None:
    listener = Listener(http, SLOW[name])
    listening = asyncio.create_task(listener.listen())
    await eventually(listener.has_begun, "it speaks")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert b"w99" not in listener.content
    await slots_are_free(suite)
