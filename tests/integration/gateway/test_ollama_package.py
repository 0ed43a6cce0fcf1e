"""Ollama's own Python client against a gateway on a real socket; inference is played."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import ollama
import pytest

from libs.common.contracts.auth.identity import Identity, VerifyKey
from libs.common.contracts.gateway import HeartbeatRequested
from libs.common.contracts.inference import ModelDetails
from libs.common.contracts.message import Event
from libs.common.contracts.registry import DescribeModel, ListModels, ModelDescription, ModelSummary
from libs.common.contracts.worker import LoadedModel
from libs.common.errors import ModelNotFound, Unauthenticated
from tests.fixtures.builders import a_heartbeat, a_loaded_model, a_model
from tests.fixtures.gateway import END, Gateway, ScriptedStream, a_gateway, serving

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    async with a_gateway() as gateway:
        yield gateway


@pytest.fixture(scope="module")
async def url(gateway: Gateway) -> AsyncIterator[str]:
    async with serving(gateway) as url:
        yield url


@asynccontextmanager
async def a_client(url: str, **headers: str) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(url, headers=headers)
    yield client
    await client.close()  # type: ignore[no-untyped-call]


@pytest.fixture
async def client(url: str) -> AsyncIterator[ollama.AsyncClient]:
    async with a_client(url) as client:
        yield client


async def test_async_chat_and_generate(client: ollama.AsyncClient) -> None:
    stream = await client.chat("m", MESSAGES, stream=True)
    assert "".join([chunk.message.content or "" async for chunk in stream]) == "Hello"
    assert (await client.chat("m", MESSAGES)).message.content == "Hello"
    chunks = [chunk async for chunk in await client.generate("m", "hi", stream=True, options={"num_predict": 3})]
    assert "".join(chunk.response or "" for chunk in chunks) == "Hello"
    assert (chunks[-1].done, chunks[-1].done_reason, chunks[-1].eval_count) == (True, "stop", 3)
    whole = await client.generate("m", "hi", keep_alive=-1)
    assert (whole.response, whole.context) == ("Hello", [1, 2, 3])
    assert (await client.generate("m")).done_reason == "load"
    assert (await client.generate("m", keep_alive=0)).done_reason == "unload"


async def test_sync_chat_and_generate(url: str) -> None:
    def everything() -> list[str | None]:
        client = ollama.Client(url)
        answers = [
            "".join(chunk.message.content or "" for chunk in client.chat("m", MESSAGES, stream=True)),
            client.chat("m", MESSAGES).message.content,
            "".join(chunk.response or "" for chunk in client.generate("m", "hi", stream=True)),
            client.generate("m", "hi").response,
        ]
        client.close()  # type: ignore[no-untyped-call]
        return answers

    assert await asyncio.to_thread(everything) == ["Hello"] * 4


async def test_line_breaks_that_its_reader_splits_at(gateway: Gateway, client: ollama.AsyncClient) -> None:
    text = "a\u2028b\u2029c\u0085d\x0b\x1ce\r\nf"
    play, gateway.play = gateway.play, lambda _: ScriptedStream().say(text).say(end=END)
    try:
        stream = await client.chat("m", MESSAGES, stream=True)
        assert "".join([chunk.message.content or "" async for chunk in stream]) == text
    finally:
        gateway.play = play


async def test_embeddings(client: ollama.AsyncClient) -> None:
    assert (await client.embed("embedder", ["a", "b"])).embeddings == [[1.0, 0.0], [1.0, 0.0]]
    assert (await client.embeddings("embedder", "a")).embedding == [1.0, 0.0]


async def test_models(gateway: Gateway, client: ollama.AsyncClient) -> None:
    details = ModelDetails(format="gguf", family="llama", families=("llama",))
    gateway.bus.answers[ListModels] = lambda _: (
        ModelSummary(name="m:latest", digest="d", size=1, modified_at=1.0, details=details),
    )
    gateway.bus.answers[DescribeModel] = lambda query: ModelDescription(
        name=query.name, modified_at=1.0, details=details, model_info={"a.b": 1}, capabilities=("completion",)
    )
    assert [model.model for model in (await client.list()).models] == ["m:latest"]
    assert (await client.show("m")).capabilities == ["completion"]
    in_memory = a_heartbeat(loaded=(loaded(),))
    gateway.ctx.cluster.hear(in_memory, time.monotonic())

    def answer(event: Event) -> None:
        assert isinstance(event, HeartbeatRequested)
        gateway.ctx.cluster.hear(in_memory.model_copy(update={"marks": (event.mark,)}), time.monotonic())

    gateway.bus.on_publish = answer
    assert [model.model for model in (await client.ps()).models] == ["m:latest"]
    gateway.bus.on_publish = lambda _event: None


def loaded() -> LoadedModel:
    return a_loaded_model(a_model(name="m:latest"), expires_at=time.time() + 300)


async def test_errors(gateway: Gateway, client: ollama.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as refused:
        await client.chat("nope", MESSAGES)
    assert refused.value.status_code == 404
    play, gateway.play = gateway.play, lambda _: ScriptedStream().say("a").fail(ModelNotFound("gone"))
    try:
        with pytest.raises(ollama.ResponseError, match="gone"):
            async for _ in await client.chat("m", MESSAGES, stream=True):
                pass
    finally:
        gateway.play = play


async def test_credentials(gateway: Gateway, url: str) -> None:
    def verify(_query: VerifyKey) -> Identity:
        raise Unauthenticated

    gateway.bus.answers[VerifyKey] = verify
    async with a_client(url, Authorization="Bearer omx_bad") as client:
        with pytest.raises(ollama.ResponseError) as refused:
            await client.chat("m", MESSAGES)
    assert (refused.value.status_code, refused.value.error) == (401, "unauthorized")
