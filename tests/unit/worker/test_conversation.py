import pytest

from libs.common.contracts.inference import ChatMessage, InferenceTask, ModelRef, ToolCall, ToolFunction
from services.worker.engines.conversation import conversation
from tests.fixtures.builders import a_model


def said(role: str, content: str = "hi", **changes: object) -> ChatMessage:
    return ChatMessage.model_validate({"role": role, "content": content, **changes})


KIND, USER, SHOT = said("system", "be kind"), said("user"), said("assistant", "a stored answer")


def a_chat(*messages: ChatMessage) -> InferenceTask:
    return InferenceTask(kind="chat", messages=messages)


def an_instruction(**changes: object) -> InferenceTask:
    return InferenceTask.model_validate({"kind": "generate", "prompt": "hi", **changes})


MODEL = a_model(system="be kind", messages=(SHOT,))


@pytest.mark.parametrize(
    ("task", "model", "expected"),
    [
        pytest.param(a_chat(USER), a_model(), (USER,), id="as it is"),
        pytest.param(a_chat(USER), MODEL, (KIND, SHOT, USER), id="the model's own words first"),
        pytest.param(
            a_chat(KIND, said("system", "be brief"), USER, KIND, KIND),
            a_model(),
            (said("system", "be kind\n\nbe brief"), USER, KIND, KIND),
            id="one system at the beginning",
        ),
        pytest.param(
            a_chat(said("system", "be brief"), USER), MODEL, (SHOT, said("system", "be brief"), USER), id="own"
        ),
        pytest.param(an_instruction(), MODEL, (KIND, SHOT, USER), id="generate is a chat of one turn"),
        pytest.param(an_instruction(system=""), MODEL, (SHOT, USER), id="no system prompt on purpose"),
        pytest.param(an_instruction(context=[1, 2]), MODEL, (KIND, USER), id="a context holds the stored messages"),
        pytest.param(
            an_instruction(images=["aaaa"]), a_model(), (said("user", images=["aaaa"]),), id="images of generate"
        ),
    ],
)
def test_messages(task: InferenceTask, model: ModelRef, expected: tuple[ChatMessage, ...]) -> None:
    assert conversation(task, model) == expected


def a_call(name: str, call_id: str = "") -> ToolCall:
    return ToolCall(id=call_id, function=ToolFunction(name=name))


def matched(calls: list[ToolCall], *results: ChatMessage) -> list[tuple[str, str]]:
    """Call id and tool name of each result."""
    task = a_chat(USER, said("assistant", "", tool_calls=calls), *results)
    return [(message.tool_call_id, message.tool_name) for message in conversation(task, a_model())[2:]]


@pytest.mark.parametrize(
    ("calls", "results", "expected"),
    [
        pytest.param(["f", "g"], [{}, {}], [("call_1_0", "f"), ("call_1_1", "g")], id="by order"),
        pytest.param(["f", "g"], [{"tool_name": "g"}, {}], [("call_1_1", "g"), ("call_1_0", "f")], id="by name first"),
        pytest.param(["f"], [{}, {}], [("call_1_0", "f"), ("", "")], id="more results than calls"),
        pytest.param(["f"], [{"tool_call_id": "x"}], [("x", "")], id="an id nobody gave"),
    ],
)
def test_results_find_their_calls(
    calls: list[str], results: list[dict[str, str]], expected: list[tuple[str, str]]
) -> None:
    assert matched([a_call(name) for name in calls], *(said("tool", "r", **result) for result in results)) == expected


def test_ids_of_the_client_are_kept() -> None:
    calls = [a_call("f", "c1"), a_call("f", "c2")]
    assert matched(calls, said("tool", "r", tool_call_id="c2"), said("tool", "r")) == [("c2", "f"), ("c1", "f")]
