"""Clients without manners, and a worker without room: what a fleet meets on an ordinary day."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import aiohttp

from tests.chaos.faults import Fault
from tests.chaos.questions import EMBED, GENERATE
from tests.chaos.scene import EMBEDDER, SLOTS, Scene
from tests.chaos.streams import a_session

SLOW_CLIENTS: Final = 8
SLOW_SECONDS: Final = 10.0
CANCELS: Final = 200
SMALL_DISK: Final = "16m"
"""The embedding model is larger."""

KEPT_BYTES: Final = 1_000_000


async def slow_clients(scene: Scene) -> None:
    """They ask for as much as they can get, as fast as it comes, and read none of it."""
    body = {"model": "echo", "prompt": "much", "options": {"num_predict": 100_000}}
    async with a_session(scene.api_key) as session:
        requests = [session.post(url + GENERATE, json=body) for url in scene.gateways for _ in range(SLOW_CLIENTS // 2)]
        answers = await asyncio.gather(*requests)
        await asyncio.sleep(SLOW_SECONDS)
        for answer in answers:
            answer.close()


async def cancels(scene: Scene) -> None:
    """Half of them go away, half are cancelled at the other gateway, all in the midst of their answers."""
    async with a_session(scene.api_key) as session, asyncio.TaskGroup() as group:
        for number in range(CANCELS):
            group.create_task(_begin_and_cancel(session, scene.gateways, number))


async def _begin_and_cancel(session: aiohttp.ClientSession, gateways: list[str], number: int) -> None:
    body = {"model": "echo-10", "prompt": f"cancelled {number}", "options": {"num_predict": 200}}
    here, there = gateways[number % 2], gateways[1 - number % 2]
    async with session.post(here + GENERATE, json=body) as answer:
        assert answer.status == 200, await answer.text()
        request_id = answer.headers["x-request-id"]
        await answer.content.readline()
        if number // 2 % 2:
            return  # goes away
        async with session.delete(f"{there}/api/v1/inference/requests/{request_id}") as done:
            assert done.status == 204, await done.text()
        last = [line async for line in answer.content][-1]
    assert json.loads(last)["error"]["code"] == "request_cancelled", last


async def disk_full(scene: Scene) -> None:
    """A new worker, the least busy, is asked for a model that nobody has in memory and its disk has no room for."""
    with _small_disk(scene.suite.directory / "small") as cache:
        worker = scene.suite.add_worker(cache_dir=str(cache), **SLOTS)
        try:
            await scene.restart(worker)
            await _ask_for(scene, EMBEDDER)
            kept = [path.name for path in cache.rglob("*") if path.is_file() and path.stat().st_size > KEPT_BYTES]
            assert not kept, f"half-written files stay: {kept}"
        finally:
            await asyncio.to_thread(worker.stop)
            scene.suite.forget(worker)


async def _ask_for(scene: Scene, model: str) -> None:
    """An answer, or an error that says what is the matter."""
    async with (
        a_session(scene.api_key) as session,
        session.post(scene.gateways[0] + EMBED, json={"model": model, "input": "room"}) as answer,
    ):
        said = await answer.json()
    assert said.get("embeddings") or "space" in str(said.get("error")), said


@contextmanager
def _small_disk(directory: Path) -> Iterator[Path]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", directory], check=True, timeout=10)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True, timeout=10)


def rude_faults() -> list[Fault]:
    found = [
        Fault("slow-clients", f"{SLOW_CLIENTS} clients ask for 100,000 tokens and do not read", slow_clients),
        Fault("cancels", f"{CANCELS} cancels and disconnects at once", cancels),
    ]
    may_mount = os.geteuid() == 0
    return [*found, Fault("disk-full", "a worker's cache has no room for a model", disk_full)] if may_mount else found
