"""Sessions over HTTP: auth and two gateways on real servers, one of which may lose its connection to the broker."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import jwt
import pytest
from yarl import URL

from tests.fixtures.database import new_database
from tests.fixtures.ports import free_port
from tests.fixtures.suite import Suite, a_plain_client, a_suite, eventually
from tests.fixtures.tcp_proxy import Proxy

ADA, PASSWORD, NEW = "ada@b.example", "correct horse battery", "another good one"


@dataclass
class World:
    """``far``: the address of the gateway that reaches the broker through ``proxy``."""

    suite: Suite
    proxy: Proxy
    far: str


@pytest.fixture(scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory,
    rabbitmq_url: str,
    redis_url: str,
    postgres_url: str,
    passwords: dict[str, str],
) -> AsyncIterator[World]:
    broker = URL(rabbitmq_url)
    proxy = Proxy(broker.host or "", broker.port or 5672)
    with new_database(postgres_url, passwords) as postgres_urls:
        suite = a_suite(tmp_path_factory.mktemp("suite"), rabbitmq_url, redis_url, postgres_urls, workers=0)
        for unneeded in ("registry", "scheduler"):
            del suite.processes[unneeded]
        port = str(free_port())
        async with proxy.running():
            far = suite.add("gateway", "far", port=port, blob_token=suite.shared["BLOB_TOKEN"])
            far.environment["RABBITMQ_URL"] = str(broker.with_host("127.0.0.1").with_port(proxy.port))
            async with suite.running():
                yield World(suite, proxy, f"http://127.0.0.1:{port}")


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """Nobody yet."""
    async with httpx.AsyncClient(base_url=f"{world.suite.url}/api/v1", timeout=30) as http:
        yield http


async def log_in(http: httpx.AsyncClient, email: str, password: str) -> httpx.Response:
    response = await http.post("/auth/login", json={"email": email, "password": password})
    http.headers.pop("Authorization", None)
    if response.status_code == 200:
        http.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
    return response


async def status(url: str, authorization: str) -> int:
    async with a_plain_client(url, timeout=30) as http:
        return (await http.get("/api/ps", headers={"Authorization": authorization})).status_code


async def test_the_life_of_a_session(world: World, http: httpx.AsyncClient) -> None:
    tokens = (await log_in(http, "admin@localhost", world.suite.admin_password)).json()
    listed = (await http.get("/auth/sessions")).json()["items"]
    assert [each["current"] for each in listed].count(True) == 1
    assert listed[0]["user_agent"].startswith("python-httpx")
    again = (await http.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})).json()
    assert await status(world.far, f"Bearer {again['access_token']}") == 200
    assert (await http.post("/auth/logout")).status_code == 204
    for url in (world.suite.url, world.far):
        for token in (tokens, again):

            async def refused(url: str = url, token: str = token["access_token"]) -> bool:
                return await status(url, f"Bearer {token}") == 401

            await eventually(refused, "a token of the session is refused")
    gone = await http.post("/auth/refresh", json={"refresh_token": again["refresh_token"]})
    assert gone.status_code == 401


async def test_the_life_of_a_user(world: World, http: httpx.AsyncClient) -> None:
    await log_in(http, "admin@localhost", world.suite.admin_password)
    created = await http.post("/users", json={"email": ADA, "password": PASSWORD})
    assert created.status_code == 201
    path, etag = f"/users/{created.json()['id']}", created.headers["etag"]
    admin = http.headers["Authorization"]
    assert (await log_in(http, ADA, PASSWORD)).status_code == 200
    ada = http.headers["Authorization"]
    assert (await http.get("/users")).status_code == 403
    body = {"current": PASSWORD, "new": NEW}
    assert (await http.post("/users/password", json=body)).status_code == 204
    assert (await log_in(http, ADA, PASSWORD)).status_code == 401
    http.headers["Authorization"] = admin
    stale = await http.put(path, json={"disabled": True}, headers={"If-Match": etag})
    assert stale.status_code == 412, "the password has changed"
    assert (await http.put(path, json={"disabled": True})).json()["disabled"] is True

    async def refused() -> bool:
        return await status(world.suite.url, ada) == 401

    await eventually(refused, "a disabled user is refused")
    assert (await http.delete(path)).status_code == 204
    assert (await http.get(path)).status_code == 404


async def test_tokens_are_good_by_the_published_keys(world: World, http: httpx.AsyncClient) -> None:
    token = (await log_in(http, "admin@localhost", world.suite.admin_password)).json()["access_token"]
    keys = jwt.PyJWKSet.from_dict((await http.get("/auth/jwks")).json())
    kid = jwt.get_unverified_header(token)["kid"]
    assert jwt.decode(token, keys[kid].key, ["RS256"], issuer="ollamamax")["org"] == "default"


async def test_nobody_registers_uninvited(http: httpx.AsyncClient) -> None:
    response = await http.post("/auth/register", json={"email": "eve@b.example", "password": PASSWORD})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")


async def test_guessing_is_slowed_down(http: httpx.AsyncClient) -> None:
    answers = [await log_in(http, "eve@b.example", "wrong") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 5


async def test_a_gateway_that_missed_the_end_of_a_session(world: World, http: httpx.AsyncClient) -> None:
    """Its queue of events died with its connection: it asks again for everybody, and not only after a minute."""
    await log_in(http, "admin@localhost", world.suite.admin_password)
    token = http.headers["Authorization"]
    assert await status(world.far, token) == 200
    world.proxy.cut()

    async def alone() -> bool:
        return not await world.suite.processes["far"].ready()

    await eventually(alone, "the connection is lost")
    assert (await http.post("/auth/logout")).status_code == 204
    assert await status(world.far, token) == 200, "known callers go on meanwhile"
    world.proxy.mend()
    await eventually(world.suite.processes["far"].ready, "the connection is back")
    assert await status(world.far, token) == 401
