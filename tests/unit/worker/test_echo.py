import asyncio
import base64
from typing import Any

import pytest

from libs.common.contracts.inference import ChatMessage, InferenceTask, SamplingOptions, Think
from libs.common.errors import ContextExceeded, EngineFailed, InvalidRequest, ModelLoadFailed, UnsupportedByModel
from services.worker.engines.base import Finish, Job, LoadedEngine, LoadSpec, Piece
from services.worker.engines.echo import EchoEngine
from tests.fixtures.builders import a_model


async def echo(name: str = "echo", context_length: int = 100) -> LoadedEngine:
    return await EchoEngine().load(LoadSpec(a_model(name=name), None, context_length, 2))


def a_task(num_predict: int = -1, stop: tuple[str, ...] = (), **changes: object) -> InferenceTask:
    options = SamplingOptions(num_predict=num_predict, stop=stop)
    task = InferenceTask(kind="chat", messages=(ChatMessage(role="user", content="a b c"),), options=options)
    return task.model_copy(update=changes)


async def run(model: LoadedEngine, task: InferenceTask, resume: tuple[int, ...] = ()) -> tuple[list[Piece], Finish]:
    parts = [part async for part in model.generate(Job("r", task, a_model(), resume))]
    pieces, finish = [part for part in parts if isinstance(part, Piece)], parts[-1]
    assert isinstance(finish, Finish)
    return pieces, finish


async def test_token_i_is_word_i() -> None:
    pieces, finish = await run(await echo(), a_task(3))
    assert [(piece.text, piece.token_ids) for piece in pieces] == [("w0", (0,)), (" w1", (1,)), (" w2", (2,))]
    assert (finish.done_reason, finish.prompt_tokens, finish.completion_tokens) == ("length", 3, 3)


async def test_ends_by_itself_after_64() -> None:
    pieces, finish = await run(await echo(), a_task())
    assert (len(pieces), finish.done_reason) == (64, "stop")


async def test_has_a_longest_answer() -> None:
    pieces, finish = await run(await echo(), a_task(100_001))
    assert (len(pieces), finish.done_reason) == (100_000, "length")


async def test_resumes_inside_a_stop_string() -> None:
    pieces, finish = await run(await echo(), a_task(10, ("3 w4",)))
    assert "".join(piece.text for piece in pieces) == "w0 w1 w2 w"
    assert (finish.done_reason, finish.stop_sequence) == ("stop", "3 w4")
    pieces, finish = await run(await echo(), a_task(10, ("3 w4",)), (0, 1, 2, 3))
    assert (pieces, finish.done_reason) == ([], "stop")


async def test_json_is_one_object_and_replayed() -> None:
    model, task = await echo(), a_task(3, format="json")
    pieces, finish = await run(model, task)
    assert "".join(piece.text for piece in pieces) == '{"w0": 0, "w1": 1, "w2": 2}'
    assert finish.done_reason == "stop"
    assert not model.can_resume(Job("r", task, a_model()))


async def test_dies_when_told_to_and_comes_back() -> None:
    model = await echo("echo-fail-after-2")
    with pytest.raises(EngineFailed):
        await run(model, a_task(3))
    assert model.failure()
    pieces, _ = await run(await echo("echo-fail-after-2"), a_task(3), (0, 1))
    assert [piece.text for piece in pieces] == [" w2"]


async def test_keeps_its_pace() -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    await run(await echo("echo-200"), a_task(20))
    assert clock() - began >= 0.099


@pytest.mark.parametrize("name", ["echo-0", "echo-x", "echo-tools-think", "echoes", "llama"])
async def test_other_names_are_not_echo(name: str) -> None:
    with pytest.raises(ModelLoadFailed):
        await echo(name)


async def test_a_prompt_too_long() -> None:
    model = await echo(context_length=2)
    with pytest.raises(ContextExceeded, match="exceeds the context"):
        await run(model, a_task(truncate=False))
    with pytest.raises(ContextExceeded, match="the input length exceeds the context length"):
        await model.embed(InferenceTask(kind="embed", inputs=("a b c",), truncate=False))
    assert (await model.embed(InferenceTask(kind="embed", inputs=("a b c",)))).prompt_tokens == 2


def a_tool(name: str = "weather", **parameters: Any) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def texts(pieces: list[Piece]) -> tuple[str, str]:
    """Thinking and text."""
    return "".join(piece.thinking for piece in pieces), "".join(piece.text for piece in pieces)


@pytest.mark.parametrize(
    ("think", "thinking"), [(None, "t0 t1 t2 t3 t4 t5 t6 t7"), ("low", "t0 t1 t2 t3 t4 t5 t6 t7"), (False, "")]
)
async def test_thinks_before_it_answers(think: Think, thinking: str) -> None:
    model, task = await echo("echo-think"), a_task(10, think=think)
    pieces, finish = await run(model, task)
    assert texts(pieces) == (thinking, "w0 w1" if thinking else "w0 w1 w2 w3 w4 w5 w6 w7 w8 w9")
    assert finish.completion_tokens == 10
    assert model.can_resume(Job("r", task, a_model())) == (think is False)


async def test_only_the_answer_has_the_format() -> None:
    pieces, _ = await run(await echo("echo-think"), a_task(10, format="json"))
    assert texts(pieces) == ("t0 t1 t2 t3 t4 t5 t6 t7", '{"w0": 0, "w1": 1}')


async def test_calls_every_tool_it_is_offered() -> None:
    model = await echo("echo-think-tools")
    tools = (a_tool("weather", city="string", days="integer"), a_tool("time", exact="boolean"))
    pieces, finish = await run(model, a_task(tools=tools))
    calls = [call for piece in pieces for call in piece.tool_calls]
    assert [call["function"] for call in calls] == [
        {"index": 0, "name": "weather", "arguments": {"city": "a0", "days": 1}},
        {"index": 1, "name": "time", "arguments": {"exact": True}},
    ]
    assert (texts(pieces)[1], finish.done_reason, finish.completion_tokens) == ("", "stop", 10)
    again, _ = await run(model, a_task(tools=tools))
    assert again == pieces


async def test_calls_as_often_and_as_surely_as_it_must() -> None:
    model, tools = await echo("echo-tools"), (a_tool("weather"), a_tool("time"))
    pieces, _ = await run(model, a_task(tools=tools, parallel_tool_calls=False))
    assert [call["function"]["name"] for piece in pieces for call in piece.tool_calls] == ["weather"]
    answered = (*a_task().messages, ChatMessage(role="tool", content="sun"))
    pieces, _ = await run(model, a_task(tools=tools, messages=answered, tool_choice="required"))
    assert len([call for piece in pieces for call in piece.tool_calls]) == 2


async def test_leaves_out_what_is_biased_against() -> None:
    bias = SamplingOptions(num_predict=4, logit_bias=((0, -100), (2, -100), (3, -99)))
    model, task = await echo(), a_task().model_copy(update={"options": bias})
    pieces, _ = await run(model, task)
    assert [(piece.text, piece.token_ids) for piece in pieces] == [
        ("w1", (1,)), (" w3", (3,)), (" w4", (4,)), (" w5", (5,))
    ]  # fmt: skip
    assert (await run(model, task, (1, 3)))[0] == pieces[2:]
    as_json, _ = await run(model, task.model_copy(update={"format": "json"}))
    assert "".join(piece.text for piece in as_json) == '{"w1": 1, "w3": 3, "w4": 4, "w5": 5}'
    asked = task.model_copy(update={"kind": "generate", "prompt": "a", "messages": ()})
    assert (await run(model, asked))[1].context == (1, 3, 4, 5)


async def test_what_is_only_measured_may_be_of_any_length() -> None:
    model, task = await echo(context_length=2), a_task(messages=(ChatMessage(role="user", content="a b c d"),))
    with pytest.raises(ContextExceeded):
        await run(model, task.model_copy(update={"truncate": False}))
    for truncate, length in ((True, 2), (False, 4)):
        _, finish = await run(model, task.model_copy(update={"truncate": truncate, "debug_render_only": True}))
        assert finish.prompt_length == length


async def test_reads_words_as_tokens() -> None:
    model = await echo()
    ids = await model.tokenize("w0 w12  w012\nhello w2147483648", special=True)
    assert ids[:2] == [0, 12]
    assert ids == await model.tokenize("w0 w12 w012 hello w2147483648", special=False)
    assert len(set(ids)) == 5
    assert all(0 <= number < 2**31 for number in ids)
    assert await model.detokenize([3, 1]) == "w3 w1"
    with pytest.raises(InvalidRequest):
        await model.detokenize([2**31])


async def test_ranks_by_the_words_they_share() -> None:
    task = InferenceTask(kind="rerank", prompt="red green", inputs=("green leaf", "green red", "", "blue"))
    ranks = await (await echo()).rerank(task)
    assert (ranks.scores, ranks.prompt_tokens) == ([0.5, 1.0, 0.0, 0.0], 7)
    assert (await (await echo()).rerank(task.model_copy(update={"prompt": ""}))).scores == [0.0] * 4


@pytest.mark.parametrize("name", ["echo", "echo-tools"])
async def test_answers_in_words_once_it_has_a_result(name: str) -> None:
    messages = (*a_task().messages, ChatMessage(role="tool", content="sun"))
    pieces, _ = await run(await echo(name), a_task(2, tools=(a_tool(),), messages=messages))
    assert texts(pieces) == ("", "w0 w1")


async def test_every_token_has_a_logprob() -> None:
    pieces, _ = await run(await echo("echo-think"), a_task(9, logprobs=True, top_logprobs=2))
    entries = [entry for piece in pieces for entry in piece.logprobs]
    assert [entry.token for entry in entries][-2:] == [" t7", "w0"]
    assert [(other.token, other.logprob) for other in entries[-1].top] == [("w0", -0.125), ("w0'", -1.0)]
    assert len(entries) == 9


async def test_renders_only() -> None:
    pieces, finish = await run(await echo(), a_task(debug_render_only=True))
    assert (pieces, finish.rendered) == ([], "user: a b c\n")
    assert (finish.prompt_length, finish.prompt_tokens, finish.completion_tokens) == (3, 0, 0)


async def test_takes_images_only_if_its_name_says_so() -> None:
    message = ChatMessage(role="user", content="a", images=(base64.b64encode(b"GIF89a").decode(),))
    with pytest.raises(UnsupportedByModel):
        await run(await echo(), a_task(messages=(message,)))
    _, finish = await run(await echo("echo-vision"), a_task(messages=(message,), debug_render_only=True))
    assert finish.image_count == 1
    with pytest.raises(InvalidRequest, match="only PNG"):
        await run(await echo("echo-vision"), a_task(messages=(message.model_copy(update={"images": ("aaaa",)}),)))


async def test_a_smaller_context_is_honoured() -> None:
    task = a_task(truncate=False).model_copy(update={"options": SamplingOptions(num_ctx=2)})
    with pytest.raises(ContextExceeded):
        await run(await echo(), task)


async def test_crashes_while_it_thinks_too() -> None:
    with pytest.raises(EngineFailed):
        await run(await echo("echo-think-100000-fail-after-3"), a_task())
