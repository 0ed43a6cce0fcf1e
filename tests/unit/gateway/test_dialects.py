"""One conversation through four doors: whatever its dialect, the worker is asked for the same."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from libs.common.contracts.inference import InferenceTask, SamplingOptions
from tests.e2e.contract import PIXEL
from tests.fixtures.builders import a_model
from tests.fixtures.conversation import ANSWER, CALLS, QUESTION, RESULTS, SYSTEM, THANKS, TOOLS
from tests.fixtures.dialects import CHAT, DIALECTS, MESSAGES, OLLAMA, RESPONSES, Dialect
from tests.fixtures.gateway import END, Gateway, ScriptedStream, a_gateway
from tests.fixtures.streams import pinned

OPTIONS = SamplingOptions(num_predict=16, temperature=0.5, top_p=0.25, seed=7)
OF_THE_DIALECT = {"truncate"}
"""What becomes of a prompt that is too long, each promises its own clients."""

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@dataclass(frozen=True)
class Case:
    changes: dict[str, Any]
    """Of the task."""

    model: str = "tools"
    sayable: tuple[Dialect, ...] = DIALECTS


WITHOUT_OLLAMA = (CHAT, RESPONSES, MESSAGES)
CASES = {
    "a question": Case({"messages": (QUESTION,)}),
    "a system prompt": Case({"messages": (SYSTEM, QUESTION)}),
    "tools": Case({"messages": (QUESTION,), "tools": TOOLS}),
    "results of tools": Case({"messages": (SYSTEM, QUESTION, CALLS, *RESULTS), "tools": TOOLS}),
    "a history": Case({"messages": (SYSTEM, QUESTION, CALLS, *RESULTS, ANSWER, THANKS), "tools": TOOLS}),
    "a call that must come": Case(
        {"messages": (QUESTION,), "tools": TOOLS, "tool_choice": "required"}, sayable=WITHOUT_OLLAMA
    ),
    "one call at a time": Case(
        {"messages": (QUESTION,), "tools": TOOLS, "parallel_tool_calls": False}, sayable=WITHOUT_OLLAMA
    ),
    "an image": Case({"messages": (QUESTION.model_copy(update={"images": (PIXEL,)}),)}),
    "an effort": Case({"messages": (QUESTION,), "think": "low"}, model="thinker"),
    "a form": Case({"messages": (QUESTION,), "format": SCHEMA}),
    "stop strings": Case(
        {"messages": (QUESTION,), "options": OPTIONS.model_copy(update={"stop": ("END", "STOP")})},
        sayable=(OLLAMA, CHAT, MESSAGES),
    ),
}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """The models bring a seed: not every dialect can say one."""
    async with a_gateway() as gateway:
        for name, model in gateway.models.items():
            gateway.models[name] = model.model_copy(update={"parameters": {"seed": OPTIONS.seed}})
        yield gateway


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        pytest.param(name, dialect, id=f"{name}-{dialect.name}")
        for name, case in CASES.items()
        for dialect in case.sayable
    ],
)
async def test_the_same_is_asked(gateway: Gateway, name: str, dialect: Dialect) -> None:
    case = CASES[name]
    task = InferenceTask(**{"kind": "chat", "options": OPTIONS, **case.changes})
    async with gateway.client() as http:
        response = await http.post(dialect.path, json=dialect.ask(case.model, task))
    assert response.status_code == 200, response.text
    assert gateway.task.model_dump(exclude=OF_THE_DIALECT) == task.model_dump(exclude=OF_THE_DIALECT)
    said = dialect.read(response.json())
    assert (said.text, said.usage) == ("Hello", (5, 3))


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_who_cannot_see_is_shown_nothing(gateway: Gateway, dialect: Dialect) -> None:
    gateway.models["blind:latest"] = a_model(name="blind:latest")
    task = InferenceTask(kind="chat", messages=(QUESTION.model_copy(update={"images": (PIXEL,)}),), options=OPTIONS)
    async with gateway.client() as http:
        response = await http.post(dialect.path, json=dialect.ask("blind", task))
    assert response.status_code == 400
    assert "this model is missing data required for image input" in response.text
    assert not gateway.started


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_a_stream_tells_the_same_however_it_was_cut(gateway: Gateway, dialect: Dialect) -> None:
    """Which is what streams of real workers are compared by."""
    body = dialect.ask("thinker", InferenceTask(kind="chat", messages=(QUESTION,), options=OPTIONS, think="low"))

    async def told(*thoughts: str, said: Sequence[str], last: str = "") -> bytes:
        stream = ScriptedStream()
        for thought in thoughts:
            stream.say(thinking=thought)
        for text in said:
            stream.say(text)
        gateway.play = lambda _task: stream.say(last, end=END)
        async with gateway.client() as http:
            return pinned((await http.post(dialect.path, json={**body, "stream": True})).content)

    whole = await told("one two", said=["three four"])
    assert await told("one", " two", said=["three", " four"]) == whole
    assert await told("one two", said=["three"], last=" four") == whole
    assert await told("one two", said=["three five"]) != whole
