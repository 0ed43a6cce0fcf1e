"""The path of a request through all five services, on the echo engine and the real model, with Ollama's own client."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from ollama import AsyncClient, Client, ResponseError

from services.scheduler import shares
from tests.fixtures.suite import Suite, eventually

MODEL = "smollm2:135m"
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
pytestmark = pytest.mark.e2e


@pytest.fixture
async def client(suite: Suite) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(suite.url) as client:
        yield client


@pytest.mark.real_model
class TestOllamaPython:
    """The `ollama` package against the real model."""

    async def test_chat_streams(self, client: AsyncClient) -> None:
        parts = [part async for part in await client.chat(MODEL, QUESTION, stream=True, options={"temperature": 0})]
        assert "Paris" in "".join(part.message.content or "" for part in parts)
        assert parts[-1].done
        assert parts[-1].done_reason == "stop"
        for metric in (
            "total_duration",
            "load_duration",
            "prompt_eval_count",
            "prompt_eval_duration",
            "eval_count",
            "eval_duration",
        ):
            assert parts[-1][metric] > 0, metric

    def test_chat_without_streaming(self, suite: Suite) -> None:
        with Client(suite.url) as sync:
            answer = sync.chat(MODEL, QUESTION, options={"temperature": 0})
        assert "Paris" in (answer.message.content or "")

    async def test_generate_and_its_context(self, client: AsyncClient) -> None:
        first = await client.generate(MODEL, "Count to three.", options={"num_predict": 8, "seed": 1})
        assert first.context
        assert first.eval_count == 8
        assert first.done_reason == "length"
        second = await client.generate(MODEL, "Go on.", context=list(first.context), options={"num_predict": 4})
        assert second.prompt_eval_count is not None
        assert second.prompt_eval_count > len(first.context)

    async def test_format_json_is_json(self, client: AsyncClient) -> None:
        schema = {
            "type": "object",
            "properties": {"capital": {"type": "string", "maxLength": 20}},
            "required": ["capital"],
        }
        answer = await client.chat(MODEL, QUESTION, format=schema, options={"temperature": 0, "num_predict": 60})
        assert set(json.loads(answer.message.content or "")) == {"capital"}

    async def test_stop_ends_the_answer(self, client: AsyncClient) -> None:
        options = {"temperature": 0, "stop": ["4"], "num_predict": 60}
        answer = await client.generate(MODEL, "Count: 1, 2, 3,", raw=True, options=options)
        assert "4" not in (answer.response or "")
        assert answer.done_reason == "stop"

    async def test_embed(self, client: AsyncClient) -> None:
        vectors = (await client.embed(MODEL, ["a cat", "a dog"])).embeddings
        assert len(vectors) == 2
        assert all(abs(sum(x * x for x in vector) - 1) < 1e-3 for vector in vectors)

    async def test_list_show_ps(self, client: AsyncClient) -> None:
        assert MODEL in [model.model for model in (await client.list()).models]
        shown = await client.show(MODEL)
        assert shown.modelinfo is not None
        assert shown.modelinfo["general.architecture"] == "llama"
        assert "completion" in (shown.capabilities or [])
        await client.generate(MODEL, "", keep_alive=0)  # it may be there under the name of a copy
        await client.generate(MODEL, "")
        assert MODEL in [model.model for model in (await client.ps()).models]

    async def test_keep_alive_zero_unloads(self, client: AsyncClient) -> None:
        assert (await client.generate(MODEL, "")).done_reason == "load"
        assert (await client.generate(MODEL, "", keep_alive=0)).done_reason == "unload"
        assert MODEL not in [model.model for model in (await client.ps()).models]

    async def test_unknown_model(self, client: AsyncClient) -> None:
        with pytest.raises(ResponseError) as error:
            await client.chat("nothing", QUESTION)
        assert error.value.status_code == 404
        assert error.value.error == "model 'nothing' not found"


class TestParallelStreams:
    """On the echo engine, whose answers are known beforehand."""

    async def test_thirty_two_streams_finish_whole(self, client: AsyncClient) -> None:

        async def one(number: int) -> tuple[str, int | None]:
            stream = await client.generate("echo", f"prompt {number}", stream=True, options={"num_predict": 100})
            parts = [part async for part in stream]
            return "".join(part.response or "" for part in parts), parts[-1].eval_count

        answers = await asyncio.gather(*(one(number) for number in range(32)))
        alone = await asyncio.gather(*(one(number) for number in range(32)))
        assert answers == alone
        assert {count for _, count in answers} == {100}

    async def test_streams_left_midway_leave_nothing_behind(self, suite: Suite, client: AsyncClient) -> None:
        """Half of 32 clients go away: the other half finish, and slots, tasks and Redis keys are all returned."""

        async def one(number: int) -> str:
            body = {"model": "echo-50", "prompt": f"prompt {number}", "options": {"num_predict": 60}}
            text = ""
            async with (
                httpx.AsyncClient(timeout=60) as http,
                http.stream("POST", f"{suite.url}/api/generate", json=body) as answer,
            ):
                async for line in answer.aiter_lines():
                    text += str(json.loads(line)["response"])
                    if number % 2 and text.count(" ") > 5:
                        return text
            return text

        async with suite.leaving_no_tasks():
            texts = await asyncio.gather(*(one(number) for number in range(32)))
        assert {len(text.split()) for text in texts[::2]} == {60}
        await eventually(lambda: nothing_runs(suite), "every slot is free")
        await eventually(lambda: no_keys_left(suite), "nothing of a request is left in Redis")


async def nothing_runs(suite: Suite) -> bool:
    running = [
        await suite.metric(name, "worker_requests_running") for name in suite.processes if name.startswith("worker")
    ]
    return sum(running) + await suite.metric("gateway", "gateway_streams_active") == 0


async def no_keys_left(suite: Suite) -> bool:
    """But for what is counted for longer than a request: shares of organizations, and limits of a day."""
    import redis.asyncio as redis

    async with redis.Redis.from_url(suite.shared["REDIS_URL"]) as client:
        keys = {key async for key in client.scan_iter("omx:*") if not key.startswith(b"omx:limit:")}
        return keys <= {shares.KEY.encode()}
