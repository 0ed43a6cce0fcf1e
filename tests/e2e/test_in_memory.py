"""What is in memory: told truly by every gateway, unloaded on every worker, loaded once for clients that disagree."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.e2e.contract import MODEL
from tests.fixtures.suite import Suite, eventually

pytestmark = pytest.mark.e2e

SLOTS_PER_MODEL = 4


@pytest.fixture(scope="module")
async def other_gateway(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    """A second door to the same suite."""
    async with suite.another_gateway() as (url, _), httpx.AsyncClient(base_url=url, timeout=60) as http:
        yield http


async def in_memory(http: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    models = (await http.get("/api/ps")).json()["models"]
    return {model["name"].removesuffix(":latest"): model for model in models}


async def generate(http: httpx.AsyncClient, model: str, **body: Any) -> dict[str, Any]:
    response = await http.post("/api/generate", json={"model": model, "stream": False, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_every_gateway_knows_at_once_what_is_in_memory(
    http: httpx.AsyncClient, other_gateway: httpx.AsyncClient
) -> None:
    for one, other in ((http, other_gateway), (other_gateway, http)):
        for _ in range(5):
            assert (await generate(one, "echo-91"))["done_reason"] == "load"
            assert "echo-91" in await in_memory(other)
            assert (await generate(other, "echo-91", keep_alive=0))["done_reason"] == "unload"
            assert "echo-91" not in await in_memory(one)


async def attempts(suite: Suite) -> dict[str, float]:
    names = [name for name, process in suite.processes.items() if process.service == "worker"]
    return {name: await suite.metric(name, "worker_attempts_total") for name in names}


async def load_everywhere(suite: Suite, http: httpx.AsyncClient, model: str) -> None:
    before = await attempts(suite)
    options = {"num_predict": 300}  # three seconds: all run at once
    await asyncio.gather(*(generate(http, model, prompt="a", options=options) for _ in range(SLOTS_PER_MODEL + 1)))

    async def all_ran() -> bool:
        after = await attempts(suite)
        return all(after[name] > before[name] for name in before)

    await eventually(all_ran, "more than one worker has slots for, so all have it")


async def test_unloading_reaches_every_worker(suite: Suite, http: httpx.AsyncClient) -> None:
    await load_everywhere(suite, http, "echo-92")
    await generate(http, "echo-92", keep_alive=0)
    assert "echo-92" not in await in_memory(http)


async def test_a_prompt_with_keep_alive_zero_unloads_afterwards_on_every_worker(
    suite: Suite, http: httpx.AsyncClient
) -> None:
    await load_everywhere(suite, http, "echo-93")
    answer = await generate(http, "echo-93", prompt="a", keep_alive=0, options={"num_predict": 2})
    assert answer["response"] == "w0 w1"

    async def is_gone() -> bool:
        return "echo-93" not in await in_memory(http)

    await eventually(is_gone, "the other worker has heard of it")


async def test_the_last_keep_alive_wins(http: httpx.AsyncClient) -> None:
    await generate(http, "echo-94", keep_alive=-1)
    assert int((await in_memory(http))["echo-94"]["expires_at"][:4]) > 2300
    await generate(http, "echo-94")
    assert int((await in_memory(http))["echo-94"]["expires_at"][:4]) > 2300, "left as it is"
    await generate(http, "echo-94", keep_alive="1h")
    assert int((await in_memory(http))["echo-94"]["expires_at"][:4]) < 2300


@pytest.mark.real_model
async def test_clients_with_different_contexts_reload_a_model_once(http: httpx.AsyncClient) -> None:
    await generate(http, MODEL, keep_alive=0)
    lengths = []
    for num_ctx in (None, 5000, None, 5000, 64, 8000):
        await generate(http, MODEL, prompt="a", options={"num_ctx": num_ctx, "num_predict": 1})
        lengths.append((await in_memory(http))[MODEL]["context_length"])
    assert lengths == [4096, 8192, 8192, 8192, 8192, 8192]
