"""A large model is uploaded, and pulled by another installation, with flat memory and through kill -9 of the registry.

A quarter of a gigabyte, so that it takes seconds; ``BIG_BLOB_MIB=1024`` for a whole one.
"""

import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.memory import watched_memory
from tests.fixtures.suite import Suite
from tests.fixtures.tiny_gguf import write_tiny_gguf

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.timeout(600)]

MIB = 1 << 20
SIZE_MIB = int(os.environ.get("BIG_BLOB_MIB", "256"))
MOST_GROWTH_MIB = 100
NAME = "team/big:latest"


@dataclass(frozen=True)
class BigFile:
    path: Path
    digest: str
    size: int

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(MIB):
                yield chunk


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigFile]:
    """A GGUF with a long tail, in which no megabyte is like another: what lands in a wrong place is noticed."""
    path = write_tiny_gguf(tmp_path_factory.mktemp("big") / "big.gguf")
    noise = os.urandom(MIB - 8)
    with path.open("ab") as file:
        for number in range(SIZE_MIB):
            file.write(number.to_bytes(8, "little") + noise)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    yield BigFile(path, f"sha256:{digest}", path.stat().st_size)
    path.unlink()


async def upload(http: httpx.AsyncClient, file: BigFile) -> int:
    async def body() -> AsyncIterator[bytes]:
        for chunk in file.chunks():
            yield chunk

    return (await http.post(f"/api/blobs/{file.digest}", content=body())).status_code


@pytest.fixture
async def model(http: httpx.AsyncClient, big_file: BigFile) -> AsyncIterator[str]:
    assert await upload(http, big_file) in {200, 201}
    body = {"model": NAME, "files": {"big.gguf": big_file.digest}, "stream": False}
    created = await http.post("/api/create", json=body)
    assert created.json() == {"status": "success"}, created.text
    yield NAME
    await http.request("DELETE", "/api/delete", json={"model": NAME})


def assert_flat(growth_mib: dict[str, int]) -> None:
    print(f"{SIZE_MIB} MiB, growth in MiB: {growth_mib}")
    assert {name: grown for name, grown in growth_mib.items() if grown > MOST_GROWTH_MIB} == {}


async def test_an_upload_survives_a_killed_registry(suite: Suite, http: httpx.AsyncClient, big_file: BigFile) -> None:
    """The client is told, and its second try succeeds."""
    registry = suite.processes["registry"]
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for chunk in big_file.chunks():
            if sent == big_file.size // MIB // 2:
                registry.kill()
            sent += 1
            yield chunk

    try:
        status = (await http.post(f"/api/blobs/{big_file.digest}", content=body())).status_code
    except httpx.TransportError:
        status = 0  # an answer to a body that is not sent yet may not reach every client
    assert status not in {200, 201}
    await suite.start("registry")
    assert (await http.head(f"/api/blobs/{big_file.digest}")).status_code == 404
    async with watched_memory(suite) as memory:
        assert await upload(http, big_file) == 201
    assert_flat(memory.growth_mib)


async def test_a_pull_goes_on_after_a_killed_registry(
    suite: Suite, other_suite: Suite, http: httpx.AsyncClient, model: str, big_file: BigFile
) -> None:
    """The puller's. Its client sees one stream, which goes on from where it was."""
    registry = other_suite.processes["registry"]
    name = f"http://127.0.0.1:{suite.gateway_port}/{model}"
    killed_at = 0
    lines: list[dict[str, Any]] = []
    async with (
        watched_memory(other_suite) as theirs,
        watched_memory(suite) as ours,
        httpx.AsyncClient(base_url=other_suite.url, timeout=120) as other,
        other.stream("POST", "/api/pull", json={"model": name, "insecure": True}) as answer,
    ):
        async for text in answer.aiter_lines():
            line = json.loads(text)
            if (
                line.get("digest") == big_file.digest
                and not killed_at
                and line.get("completed", 0) > big_file.size // 4
            ):
                killed_at = line["completed"]
                registry.kill()
                await other_suite.start("registry")
                lines.clear()
            lines.append(line)
    assert lines[-1] == {"status": "success"}
    assert 0 < killed_at < big_file.size, "it was killed in the middle"
    told = [line.get("completed", 0) for line in lines if line.get("digest") == big_file.digest]
    assert min(told) > killed_at // 2, "it began again"
    assert (await digests_of(other_suite))[name.removeprefix("http://")] == (await digests_of(suite))[model]
    assert_flat(theirs.growth_mib)
    assert_flat(ours.growth_mib)


async def digests_of(suite: Suite) -> dict[str, str]:
    async with httpx.AsyncClient(base_url=suite.url, timeout=30) as client:
        return {model["name"]: model["digest"] for model in (await client.get("/api/tags")).json()["models"]}
