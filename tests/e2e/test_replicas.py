"""Two more workers with disks of their own join the suite: they get the model from peers, and keep it whole."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.suite import Process, Suite, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.real_model]

MODEL = "smollm2:135m"


@dataclass
class Node:
    """A machine of its own, as far as its worker can tell."""

    name: str
    suite: Suite
    process: Process

    @property
    def directory(self) -> Path:
        return Path(self.process.environment["WORKER_CACHE_DIR"])

    def blob(self) -> Path:
        [blob] = (path for path in self.directory.glob("sha256-*") if not path.suffix)
        return blob

    def is_whole(self) -> bool:
        blob = self.blob()
        with blob.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == blob.name.removeprefix("sha256-")

    async def received_from(self, source: str) -> float:
        text = (await get(f"http://127.0.0.1:{self.process.ops_port}/metrics")).text
        sample = f'worker_blob_bytes_received_total{{source="{source}"}} '
        return sum(float(line.removeprefix(sample)) for line in text.splitlines() if line.startswith(sample))


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=10) as http:
        return await http.get(url)


@asynccontextmanager
async def a_node(suite: Suite, name: str) -> AsyncIterator[Node]:
    """Verifies its blobs every other second."""
    process = suite.add_worker(
        node=name,
        cache_dir=str(suite.directory / name),
        link_blobs="false",
        echo="false",
        scrub_seconds="2",
        scrub_bytes_per_second=str(10**9),
    )
    [key] = (key for key, each in suite.processes.items() if each is process)
    try:
        await suite.start(key)
        yield Node(name, suite, process)
    finally:
        await asyncio.to_thread(process.stop)
        del suite.processes[key]


@pytest.fixture(scope="module")
async def admin(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.admin() as http:
        yield http


@pytest.fixture(scope="module")
async def nodes(suite: Suite, admin: httpx.AsyncClient) -> AsyncIterator[tuple[Node, Node]]:
    """They join when the suite's own node has the model."""
    await replicate(admin, 1)
    async with a_node(suite, "west") as west, a_node(suite, "east") as east:
        yield west, east


async def replicate(admin: httpx.AsyncClient, count: int) -> dict[str, Any]:
    """Ask as soon as so many nodes have reported, and wait until they have the model."""

    async def is_accepted() -> bool:
        answer = await admin.post(f"/api/v1/models/{MODEL}/replicate", json={"nodes": count})
        assert answer.status_code in (202, 503) or "nodes are too few" in answer.json()["error"]["message"]
        return answer.status_code == 202

    found: dict[str, Any] = {}

    async def is_done() -> bool:
        found.clear()
        found.update(await replicas(admin))
        return len(found) == count and {replica["state"] for replica in found.values()} == {"ready"}

    await eventually(is_accepted, f"{count} nodes have reported")
    await eventually(is_done, f"{count} nodes have the model", 60)
    return found


async def replicas(admin: httpx.AsyncClient) -> dict[str, Any]:
    """None, while nobody answers in time."""
    answer = await admin.get(f"/api/v1/models/{MODEL}/replicas")
    return {replica["node"]: replica for replica in answer.json().get("items", ())}


async def test_replicas_come_from_peers_and_heal(admin: httpx.AsyncClient, nodes: tuple[Node, Node]) -> None:
    await replicate(admin, 3)
    for node in nodes:
        assert node.is_whole()
        assert await node.received_from("registry") == 0
        assert await node.received_from("peer") == node.blob().stat().st_size

    west = nodes[0]
    with west.blob().open("r+b") as file:
        file.seek(50_000_000)
        file.write(b"rotten")

    async def has_healed() -> bool:
        replica = (await replicas(admin)).get("west")
        return bool(replica and replica["state"] == "ready" and replica["health"] < 1)

    await eventually(has_healed, "the damaged replica is whole again", 60)
    assert west.is_whole()


async def test_more_than_there_are(admin: httpx.AsyncClient, nodes: tuple[Node, Node]) -> None:
    answer = await admin.post(f"/api/v1/models/{MODEL}/replicate", json={"nodes": 99})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "99 replicas were asked for" in answer.json()["error"]["message"]
