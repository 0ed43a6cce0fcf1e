"""What a request says of itself: tokens it may cost, and hashes of its beginning."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.inference import ChatMessage, InferenceTask, SamplingOptions
from services.gateway.estimate import BLOCK_CHARACTERS, MOST_BLOCKS, estimate, prefix_hashes
from tests.fixtures.builders import a_model

MODEL = a_model(context_length=2048)


def a_chat(*contents: str, **more: Any) -> InferenceTask:
    return InferenceTask(
        kind="chat", messages=tuple(ChatMessage(role="user", content=text) for text in contents), **more
    )


def hashes(task: InferenceTask, organization: str = "o", **model: Any) -> tuple[int, ...]:
    return prefix_hashes(task, a_model(**model), organization)


@pytest.mark.parametrize(
    ("task", "prompt", "answer"),
    [
        (a_chat("x" * 40, "y" * 41), 21, 256),
        (a_chat("x" * 40, tools=({"type": "function"},)), 16, 256),
        (a_chat("x", options=SamplingOptions(num_predict=10)), 1, 10),
        (a_chat("x", options=SamplingOptions(num_predict=10**9)), 1, 2048),
        (InferenceTask(kind="generate", prompt="12345678", context=(1, 2, 3)), 5, 256),
        (InferenceTask(kind="generate", prompt="1234", debug_render_only=True), 0, 0),
        (InferenceTask(kind="embed", inputs=("1234", "5678")), 2, 0),
        (InferenceTask(kind="rerank", prompt="12345678", inputs=("1234", "5678")), 6, 0),
        (InferenceTask(kind="tokenize", prompt="12345678"), 0, 0),
        (InferenceTask(kind="detokenize", context=(1, 2, 3)), 0, 0),
        (InferenceTask(kind="load"), 0, 0),
    ],
)
def test_what_it_may_cost(task: InferenceTask, prompt: int, answer: int) -> None:
    found = estimate(task, MODEL)
    assert (found.prompt, found.answer) == (prompt, answer)


def test_a_conversation_that_goes_on_begins_as_it_did() -> None:
    first = a_chat("a" * 2000)
    later = a_chat("a" * 2000, "b" * 2000)
    assert len(hashes(first)) == 3
    assert hashes(later)[:3] == hashes(first)
    assert len(hashes(later)) > 3


@pytest.mark.parametrize("same", [{"organization": "p"}, {"digest": "other"}])
def test_nothing_is_equal_across_organizations_and_models(same: dict[str, str]) -> None:
    task = a_chat("a" * 2000)
    assert not set(hashes(task)) & set(hashes(task, **same))


def test_a_difference_counts_from_there_on() -> None:
    one, other = a_chat("a" * 1100 + "x" * 3000), a_chat("a" * 1100 + "y" * 3000)
    assert hashes(one)[:2] == hashes(other)[:2]
    assert not set(hashes(one)[2:]) & set(hashes(other)[2:])


def test_what_stands_before_the_messages_counts() -> None:
    task = a_chat("a" * 2000)
    assert hashes(task) != hashes(task, system="be brief")
    tools = ({"type": "function", "function": {"name": "f"}},)
    assert hashes(task) != hashes(task.model_copy(update={"tools": tools}))


@pytest.mark.parametrize("kind", ["embed", "load", "rerank", "tokenize"])
def test_only_what_is_generated_has_a_beginning(kind: Any) -> None:
    assert hashes(InferenceTask(kind=kind, inputs=("x" * 4000,))) == ()


@given(st.lists(st.text(max_size=3000), max_size=8))
def test_hashes_are_few_and_small(contents: list[str]) -> None:
    found = hashes(a_chat(*contents))
    assert len(found) <= min(MOST_BLOCKS, sum(map(len, contents)) // BLOCK_CHARACTERS + 1)
    assert all(0 <= value < 2**64 for value in found)
