import asyncio

import pytest

from libs.common.contracts.inference import ChatMessage, InferenceTask, SamplingOptions
from libs.common.errors import ContextExceeded, EngineFailed, ModelLoadFailed
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
    parts = [part async for part in model.generate(Job("r", task, resume))]
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


async def test_resumes_inside_a_stop_string() -> None:
    pieces, finish = await run(await echo(), a_task(10, ("3 w4",)))
    assert "".join(piece.text for piece in pieces) == "w0 w1 w2 w"
    assert finish.done_reason == "stop"
    pieces, finish = await run(await echo(), a_task(10, ("3 w4",)), (0, 1, 2, 3))
    assert (pieces, finish.done_reason) == ([], "stop")


async def test_json_is_one_object_and_replayed() -> None:
    model, task = await echo(), a_task(3, format="json")
    pieces, finish = await run(model, task)
    assert "".join(piece.text for piece in pieces) == '{"w0": 0, "w1": 1, "w2": 2}'
    assert finish.done_reason == "stop"
    assert not model.can_resume(task)


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


@pytest.mark.parametrize("name", ["echo-0", "echo-x", "echoes", "llama"])
async def test_other_names_are_not_echo(name: str) -> None:
    with pytest.raises(ModelLoadFailed):
        await echo(name)


async def test_a_prompt_too_long() -> None:
    model = await echo(context_length=2)
    with pytest.raises(ContextExceeded, match="exceeds the context"):
        await run(model, a_task(truncate=False))
    with pytest.raises(ContextExceeded, match="the input length exceeds the context length"):
        await model.embed(("a b c",), truncate=False, dimensions=None)
    assert (await model.embed(("a b c",), truncate=True, dimensions=None)).prompt_tokens == 2
