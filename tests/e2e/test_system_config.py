"""A setting that is changed through one gateway is in force in every process before they ask, once a minute."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.fixtures.installation import API, Installation
from tests.fixtures.suite import eventually

pytestmark = pytest.mark.e2e

PATH = f"{API}/system/config"


@pytest.fixture
async def elsewhere(installation: Installation) -> AsyncIterator[httpx.AsyncClient]:
    """Anonymous, at another gateway of the same installation."""
    async with installation.suite.another_gateway() as (url, _), httpx.AsyncClient(base_url=url, timeout=5) as http:
        yield http


async def test_every_process_works_by_it(installation: Installation, elsewhere: httpx.AsyncClient) -> None:
    stranger = {"email": "stranger@example.com", "password": "short"}

    async def is_closed() -> bool:
        listed = await elsewhere.get("/api/tags")
        registered = await elsewhere.post(f"{API}/auth/register", json=stranger)
        return (listed.status_code, registered.status_code) == (401, 403)

    async def is_open() -> bool:
        listed = await elsewhere.get("/api/tags")
        registered = await elsewhere.post(f"{API}/auth/register", json=stranger)
        return (listed.status_code, registered.status_code) == (200, 400)

    async with installation.admin() as admin:
        changed = await admin.http.put(PATH, json={"anonymous": True, "registration": "open"})
        assert changed.status_code == 200
        await eventually(is_open, "everybody may come in")
        await admin.http.put(PATH, json={"anonymous": False, "registration": "closed"})
        await eventually(is_closed, "nobody may come in")
        installation.suite.processes["gateway-2"].stop()
        await installation.suite.start("gateway-2")
        assert (await elsewhere.get("/api/tags")).status_code == 401, "a gateway that starts knows it before it serves"
        await admin.http.put(PATH, json={})
