"""What a model of llama.cpp does with its two processes."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from libs.common.contracts.inference import InferenceTask
from libs.common.errors import EngineFailed, ModelLoadFailed
from services.worker.engines.base import LoadSpec
from services.worker.engines.llama_cpp import LlamaCppEngine, LlamaCppModel
from services.worker.engines.llama_process import LlamaProcess
from tests.fixtures.builders import a_model

SPEC = LoadSpec(a_model(), Path("weights"), 100, 1)


class FakeProcess:
    def __init__(self) -> None:
        self.closed = False
        self.died = False

    def private_bytes(self) -> int:
        return 7

    def failure(self) -> str | None:
        return "it is gone" if self.closed or self.died else None

    async def close(self) -> None:
        self.closed = True

    async def ask(self, path: str, body: object, timeout: float = 0.0) -> object:
        raise EngineFailed


class Processes:
    """Starts embedders when ``may_start`` is set."""

    def __init__(self) -> None:
        self.started: list[FakeProcess] = []
        self.asked = asyncio.Event()
        self.may_start = asyncio.Event()

    async def start(self, _embedding: bool) -> LlamaProcess:
        self.asked.set()
        await self.may_start.wait()
        self.started.append(FakeProcess())
        return cast(LlamaProcess, self.started[-1])


async def test_no_process_outlives_its_model() -> None:
    processes, task = Processes(), InferenceTask(kind="embed", inputs=("a",))
    model = LlamaCppModel(SPEC, cast(LlamaProcess, FakeProcess()), True, 0, processes.start)
    embedding = asyncio.create_task(model.embed(task))
    await processes.asked.wait()
    closing = asyncio.create_task(model.close())
    late = asyncio.create_task(model.embed(task))
    processes.may_start.set()
    results = await asyncio.gather(embedding, closing, late, return_exceptions=True)
    assert [type(result) for result in results] == [EngineFailed, type(None), EngineFailed]
    with pytest.raises(EngineFailed, match="gone"):
        await model.embed(task)
    assert [process.closed for process in processes.started] == [True]


async def test_an_embedder_that_died_is_closed_before_the_next_one_starts() -> None:
    processes, task = Processes(), InferenceTask(kind="embed", inputs=("a",))
    processes.may_start.set()
    model = LlamaCppModel(SPEC, cast(LlamaProcess, FakeProcess()), True, 0, processes.start)
    for _ in range(2):
        with pytest.raises(EngineFailed):
            await model.embed(task)
        processes.started[-1].died = True
    assert [process.closed for process in processes.started] == [True, False]


async def test_weights_that_are_deleted_while_they_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, started = tmp_path / "weights", []
    weights.write_bytes(b"12345")

    async def start(_config: object, _timeout: float, _silence: float) -> LlamaProcess:
        weights.unlink()  # the process has mapped them
        started.append(FakeProcess())
        return cast(LlamaProcess, started[-1])

    monkeypatch.setattr(LlamaProcess, "start", start)
    engine, spec = LlamaCppEngine(1, 10, 10), LoadSpec(a_model(), weights, 100, 1)
    assert (await engine.load(spec)).size == 5 + 7
    with pytest.raises(ModelLoadFailed, match="deleted"):
        await engine.load(spec)
    assert len(started) == 1
