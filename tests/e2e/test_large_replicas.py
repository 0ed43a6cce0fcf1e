"""A blob of 1 GiB on its way to two nodes: everybody who moves it is killed in between, and memory stays flat."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.database import new_database
from tests.fixtures.infra import provided
from tests.fixtures.memory import Memory, watched_memory
from tests.fixtures.suite import Process, Suite, a_suite, eventually
from tests.fixtures.tcp_proxy import Proxy
from tests.fixtures.tiny_gguf import write_tiny_gguf

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.timeout(600)]

SIZE = 1 << 30
CHUNKS = SIZE >> 22
ON_THE_WAY = 4
"""Chunks that have begun to arrive when the network freezes."""

MOST_GROWTH_MIB = 64
"""A worker holds some chunks of 4 MiB at a time; a copy of the blob would be sixteen times this."""


@pytest.fixture
async def suite(tmp_path: Path, postgres_url: str, passwords: dict[str, str]) -> AsyncIterator[Suite]:
    """Not started. On servers of its own: another suite on the same broker would share its queues."""
    with provided(["rabbitmq", "redis"]) as servers, new_database(postgres_url, passwords) as urls:
        suite = a_suite(
            tmp_path,
            servers.urls["rabbitmq"],
            servers.urls["redis"],
            urls,
            workers=0,
            models={"big": write_big_gguf(tmp_path / "big.gguf")},
        )
        for name in ("west", "east"):
            suite.add_worker(node=name, cache_dir=str(tmp_path / name), link_blobs="false")
        try:
            yield suite
        finally:
            suite.stop()


def write_big_gguf(path: Path) -> Path:
    write_tiny_gguf(path)
    with path.open("r+b") as file:
        for index in range(CHUNKS):  # so that no two chunks are the same
            file.seek((index << 22) + (1 << 20))
            file.write(index.to_bytes(4, "big"))
        file.truncate(SIZE)
    return path


@pytest.fixture
async def network(suite: Suite) -> AsyncIterator[Proxy]:
    """Between the workers and the registry's blobs. All but one worker run."""
    registry = suite.processes["registry"]
    async with Proxy("127.0.0.1", registry.ops_port).running() as proxy:
        registry.environment["REGISTRY_PUBLIC_URL"] = f"http://127.0.0.1:{proxy.port}"
        await suite.start("auth", "registry", "gateway", "worker-0")
        yield proxy


@pytest.fixture
async def admin(suite: Suite, network: Proxy) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.admin() as http:
        yield http


def arrived(directory: Path) -> int:
    """Chunks of the blob that is on its way."""
    return sum(path.read_bytes().count(1) for path in directory.glob("*.arrived"))


async def until_arrived(directory: Path, least: int) -> None:
    async def so_many() -> bool:
        return arrived(directory) >= least

    await eventually(so_many, f"{least} chunks arrived", 60)


async def start_again(process: Process) -> None:
    process.start()
    await eventually(process.ready, f"{process.service} is back", 60)


async def replicate(admin: httpx.AsyncClient, count: int) -> None:
    async def is_accepted() -> bool:
        answer = await admin.post("/api/v1/models/big/replicate", json={"nodes": count})
        return answer.status_code == 202

    await eventually(is_accepted, f"{count} nodes have reported")


async def until_ready(admin: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    async def is_done() -> bool:
        answer = await admin.get("/api/v1/models/big/replicas")
        if answer.status_code != 200:
            return False
        return [replica["state"] for replica in answer.json()["items"]] == ["ready"] * count

    await eventually(is_done, f"{count} nodes have the model", 120)
    found: list[dict[str, Any]] = (await admin.get("/api/v1/models/big/replicas")).json()["items"]
    return found


def assert_flat(memory: Memory) -> None:
    assert {name: grown for name, grown in memory.growth_mib.items() if grown >= MOST_GROWTH_MIB} == {}


async def test_everybody_is_killed_in_between(
    suite: Suite, network: Proxy, admin: httpx.AsyncClient, tmp_path: Path
) -> None:
    west, registry = suite.processes["worker-0"], suite.processes["registry"]
    network.freeze_after(SIZE // 8)
    await replicate(admin, 1)
    await until_arrived(tmp_path / "west", CHUNKS // 8 - ON_THE_WAY)
    before = arrived(tmp_path / "west")
    west.kill()
    network.freeze_after(SIZE // 4)
    await start_again(west)
    await until_arrived(tmp_path / "west", before + CHUNKS // 4 - 2 * ON_THE_WAY)
    registry.kill()
    await start_again(registry)
    async with watched_memory(suite) as memory:
        network.mend()
        [replica] = await until_ready(admin, 1)
    assert_flat(memory)
    assert replica["completed"] == SIZE
    received = await suite.metric("worker-0", "worker_blob_bytes_received_total")
    assert received <= SIZE - (before << 22)

    await suite.start("worker-1")
    async with watched_memory(suite) as memory:
        await replicate(admin, 2)
        await until_ready(admin, 2)
    assert_flat(memory)

    assert (await admin.request("DELETE", "/api/delete", json={"model": "big"})).status_code == 200

    async def is_gone() -> bool:
        return not [path for node in ("west", "east") for path in (tmp_path / node).iterdir() if path.suffix != ".lock"]

    await eventually(is_gone, "both nodes have deleted the blob")
