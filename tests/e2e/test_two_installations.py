"""Two installations: a model made on one is pushed to the other, deleted, and pulled back, byte for byte the same."""

from typing import Any

import httpx
import pytest

from tests.fixtures.suite import Suite

pytestmark = [pytest.mark.e2e, pytest.mark.real_model]


async def last_line(suite: Suite, path: str, body: dict[str, Any], method: str = "POST") -> Any:
    async with httpx.AsyncClient(base_url=suite.url, timeout=60) as http:
        response = await http.request(method, path, json={**body, "stream": False})
        assert response.status_code == 200, response.text
        return response.json() if response.content else None


async def digests(suite: Suite) -> dict[str, str]:
    async with httpx.AsyncClient(base_url=suite.url, timeout=60) as http:
        return {model["name"]: model["digest"] for model in (await http.get("/api/tags")).json()["models"]}


async def test_there_and_back(suite: Suite, other_suite: Suite) -> None:
    name = f"127.0.0.1:{other_suite.gateway_port}/team/kind:v1"
    made = {"model": name, "from": "smollm2:135m", "system": "be kind", "parameters": {"temperature": 0.5}}
    assert await last_line(suite, "/api/create", made) == {"status": "success"}
    digest = (await digests(suite))[name]

    address = {"model": f"http://{name}", "insecure": True}
    assert await last_line(suite, "/api/push", address) == {"status": "success"}
    assert (await digests(other_suite))["team/kind:v1"] == digest

    await last_line(suite, "/api/delete", {"model": name}, "DELETE")
    assert name not in await digests(suite)
    assert await last_line(suite, "/api/pull", address) == {"status": "success"}
    assert (await digests(suite))[name] == digest

    answer = await last_line(suite, "/api/generate", {"model": name, "prompt": "a", "options": {"num_predict": 2}})
    assert answer["eval_count"] == 2
    await last_line(suite, "/api/delete", {"model": name}, "DELETE")
