"""ollama-python, both of its clients, through every method that needs no cloud."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.e2e.contract import EMBEDDER, MODEL
from tests.fixtures.suite import Suite
from tests.fixtures.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.e2e

Ask = Callable[..., Awaitable[Any]]

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
GREEDY = {"temperature": 0, "num_predict": 40}


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
      a: The first number
      b: The second number

    Returns:
      int: The sum
    """
    return a + b


@pytest.fixture(params=["sync", "async"])
async def ask(suite: Suite, request: pytest.FixtureRequest) -> AsyncIterator[Ask]:
    """Calls a method of the client by its name. What it streams comes back as a list."""
    if request.param == "sync":
        with ollama.Client(suite.url) as client:

            def ask_sync(method: str, *args: Any, **fields: Any) -> Any:
                answer = getattr(client, method)(*args, **fields)
                return list(answer) if fields.get("stream") else answer

            yield lambda *args, **fields: asyncio.to_thread(ask_sync, *args, **fields)
    else:
        async with ollama.AsyncClient(suite.url) as client:

            async def ask_async(method: str, *args: Any, **fields: Any) -> Any:
                answer = await getattr(client, method)(*args, **fields)
                return [part async for part in answer] if fields.get("stream") else answer

            yield ask_async


@pytest.mark.real_model
class TestAnswers:
    async def test_chat(self, ask: Ask) -> None:
        assert "Paris" in (await ask("chat", MODEL, QUESTION, options=GREEDY)).message.content

    async def test_chat_streams(self, ask: Ask) -> None:
        parts = await ask("chat", MODEL, QUESTION, stream=True, options=GREEDY)
        assert "Paris" in "".join(part.message.content for part in parts)
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]

    async def test_generate_streams(self, ask: Ask) -> None:
        parts = await ask("generate", MODEL, "Count: 1, 2, 3,", raw=True, stream=True, options=GREEDY)
        assert "4" in "".join(part.response for part in parts)

    async def test_structured_output(self, ask: Ask) -> None:
        schema = {"type": "object", "properties": {"capital": {"enum": ["Paris", "Rome"]}}, "required": ["capital"]}
        answer = await ask("chat", MODEL, QUESTION, format=schema, options=GREEDY)
        assert json.loads(answer.message.content) == {"capital": "Paris"}

    async def test_logprobs(self, ask: Ask) -> None:
        answer = await ask("generate", MODEL, "Hi", logprobs=True, top_logprobs=2, options={"num_predict": 3})
        assert len(answer.logprobs) == answer.eval_count == 3
        for entry in answer.logprobs:
            assert entry.logprob <= 0
            assert len(entry.top_logprobs) == 2
            assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob

    async def test_embed(self, ask: Ask) -> None:
        vectors = (await ask("embed", EMBEDDER, ["a cat", "a dog"])).embeddings
        assert [len(vector) for vector in vectors] == [384, 384]
        assert len((await ask("embeddings", EMBEDDER, "a cat")).embedding) == 384

    async def test_refused(self, ask: Ask) -> None:
        with pytest.raises(ollama.ResponseError, match=f"library/{MODEL} does not support tools") as refused:
            await ask("chat", MODEL, QUESTION, tools=[add])
        assert refused.value.status_code == 400
        with pytest.raises(ollama.ResponseError, match=f'"{MODEL}" does not support thinking'):
            await ask("chat", MODEL, QUESTION, think=True)


class TestToolsAndThinking:
    """On the echo engine, which thinks and calls what it is offered."""

    async def test_a_tool_is_called(self, ask: Ask) -> None:
        message = (await ask("chat", "echo-tools", QUESTION, tools=[add])).message
        [call] = message.tool_calls
        assert call.function.name == "add"
        assert set(call.function.arguments) == {"a", "b"}
        result = {"role": "tool", "tool_name": "add", "content": "3"}
        assert (await ask("chat", "echo", [*QUESTION, message, result], tools=[add])).done_reason == "stop"

    async def test_a_tool_call_streams_whole(self, ask: Ask) -> None:
        parts = await ask("chat", "echo-tools", QUESTION, tools=[add], stream=True)
        [calls] = [part.message.tool_calls for part in parts if part.message.tool_calls]
        assert [call.function.name for call in calls] == ["add"]

    async def test_thinking_comes_first(self, ask: Ask) -> None:
        parts = await ask("chat", "echo-think", QUESTION, think=True, stream=True)
        kinds = [kind for part in parts for kind in ("thinking", "content") if getattr(part.message, kind)]
        assert kinds == sorted(kinds, reverse=True)
        assert set(kinds) == {"thinking", "content"}

    async def test_thinking_can_be_switched_off(self, ask: Ask) -> None:
        answer = await ask("generate", "echo-think", "Why?", think=False)
        assert not answer.thinking
        assert answer.response


@pytest.mark.real_model
class TestModels:
    async def test_list_and_show(self, ask: Ask) -> None:
        assert {MODEL, EMBEDDER} <= {model.model for model in (await ask("list")).models}
        shown = await ask("show", MODEL)
        assert shown.modelinfo["general.architecture"] == "llama"
        assert shown.capabilities == ["completion"]

    async def test_ps_tells_what_was_just_loaded(self, ask: Ask) -> None:
        await ask("generate", MODEL, "", keep_alive=0)  # it may be there under the name of a copy
        await ask("generate", MODEL, "", keep_alive="10m")
        assert MODEL in [model.model for model in (await ask("ps")).models]

    async def test_copy_and_delete(self, ask: Ask) -> None:
        assert (await ask("copy", MODEL, "copied")).status == "success"
        [model] = [model for model in (await ask("list")).models if model.model == "copied:latest"]
        assert model.digest
        assert (await ask("delete", "copied")).status == "success"
        with pytest.raises(ollama.ResponseError, match="model 'copied' not found"):
            await ask("generate", "copied", "a")

    async def test_create_from_a_model(self, ask: Ask) -> None:
        fields = {"from_": MODEL, "system": "You are Mario.", "parameters": {"num_predict": 2}}
        statuses = [part.status for part in await ask("create", "mario", stream=True, **fields)]
        assert statuses[-2:] == ["writing manifest", "success"]
        shown = await ask("show", "mario")
        assert "You are Mario." in shown.modelfile
        assert "num_predict                    2" in shown.parameters
        assert (await ask("generate", "mario", "Hi")).eval_count <= 2
        await ask("delete", "mario")

    async def test_create_from_a_file(self, ask: Ask, tmp_path: Path) -> None:
        digest = await ask("create_blob", write_tiny_gguf(tmp_path / "tiny.gguf"))
        answer = await ask("create", "tiny", files={"tiny.gguf": digest})
        assert answer.status == "success"
        assert (await ask("generate", "tiny", "a", options={"num_predict": 4})).eval_count == 4
        await ask("delete", "tiny")


@pytest.mark.real_model
async def test_push_and_pull(ask: Ask, suite: Suite) -> None:
    """The gateway is a registry too: it is its own counterpart here."""
    name = f"http://127.0.0.1:{suite.gateway_port}/team/pushed"
    await ask("copy", MODEL, name.removeprefix("http://"))
    pushed = [part.status for part in await ask("push", name, insecure=True, stream=True)]
    assert pushed[0] == "retrieving manifest"
    assert pushed[-2:] == ["pushing manifest", "success"]
    assert "team/pushed:latest" in [model.model for model in (await ask("list")).models]
    await ask("delete", name.removeprefix("http://"))
    pulled = [part.status for part in await ask("pull", name, insecure=True, stream=True)]
    assert pulled[0] == "pulling manifest"
    assert pulled[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    assert (await ask("pull", name, insecure=True)).status == "success"
    for made in (name.removeprefix("http://"), "team/pushed"):
        await ask("delete", made)
