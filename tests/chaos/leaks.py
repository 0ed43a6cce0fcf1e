"""What a fault leaves behind, once nobody asks for anything any more: nothing, after the time things are kept."""

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis.asyncio as redis
from pydantic import SecretStr

from libs.common.bus.dead_letters import list_dead
from libs.common.bus.rabbit import RabbitBus
from libs.common.bus.topology import INSTANCE_QUEUE_EXPIRES_MS
from libs.common.ledger_check import SETTLED_SECONDS, differences, ledger
from libs.common.settings import RabbitSettings
from tests.chaos.scene import Scene
from tests.chaos.verdict import History
from tests.fixtures.infra import EmbeddedServer
from tests.fixtures.suite import TASKS_OF_CHANCE

KEPT_SECONDS: Final = 60.0
QUEUES_SECONDS: Final = INSTANCE_QUEUE_EXPIRES_MS / 1000 + 30
LOOK_SECONDS: Final = 0.5

SLOTS: Final = (
    ("worker", "worker_requests_running"),
    ("gateway", "gateway_streams_active"),
    ("scheduler", "scheduler_requests_waiting"),
)
OF_REQUESTS: Final = ("omx:log:*", "omx:card:*", "omx:task:*")

INSTANCE: Final = re.compile(r"(?:gateway|auth|registry|scheduler|worker)-[0-9a-f]{8}")

Look = Callable[[], Awaitable[list[str]]]


@dataclass(frozen=True)
class Before:
    """What there is in calm."""

    tasks: dict[str, float]
    dead: int
    lasting: set[str]
    moment: float


async def in_calm(scene: Scene) -> Before:
    dead = await list_dead(scene.servers.urls["rabbitmq"])
    return Before(await _tasks(scene), len(dead), await _lasting(scene), time.time())


async def leaks(scene: Scene, before: Before, histories: Iterable[History]) -> list[str]:
    """A line for each thing that is still there when it should not be."""

    async def books() -> list[str]:
        return await _books(scene, before, histories)

    async def dead() -> list[str]:
        count = len(await list_dead(scene.servers.urls["rabbitmq"])) - before.dead
        return [f"{count} dead letters"] if count else []

    looks: tuple[Look, ...] = (lambda: _slots(scene), lambda: _keys(scene, before), lambda: _left_tasks(scene, before))
    found = [await _at_last(look, KEPT_SECONDS) for look in (*looks, books, dead)]
    return [line for lines in found for line in lines]


async def _at_last(look: Look, seconds: float) -> list[str]:
    """What it still sees then; empty as soon as it sees nothing."""
    deadline = time.monotonic() + seconds
    while (lines := await look()) and time.monotonic() < deadline:  # noqa: ASYNC110  it is in other processes
        await asyncio.sleep(LOOK_SECONDS)
    return lines


async def _slots(scene: Scene) -> list[str]:
    held = {
        f"{name}: {sample}": value
        for service, sample in SLOTS
        for name in scene.named(service)
        if (value := await scene.suite.metric(name, sample))
    }
    return [f"{what} is {value:g}" for what, value in held.items()]


async def _keys(scene: Scene, before: Before) -> list[str]:
    async with redis.Redis.from_url(scene.servers.urls["redis"]) as client:
        counts = {pattern: len([key async for key in client.scan_iter(pattern, count=1000)]) for pattern in OF_REQUESTS}
    kept = [f"{count} keys {pattern}" for pattern, count in counts.items() if count]
    return [*kept, *(f"the key {key} has no TTL" for key in sorted(await _lasting(scene) - before.lasting))]


async def _lasting(scene: Scene) -> set[str]:
    """Keys that never expire."""
    async with redis.Redis.from_url(scene.servers.urls["redis"], decode_responses=True) as client:
        keys = [str(key) async for key in client.scan_iter("*", count=1000)]
        return {key for key in keys if await client.ttl(key) == -1}


async def _tasks(scene: Scene) -> dict[str, float]:
    return {name: await scene.suite.metric(name, "asyncio_tasks") for name in scene.suite.processes}


async def _left_tasks(scene: Scene, before: Before) -> list[str]:
    now = await _tasks(scene)
    return [
        f"{name}: {now[name]:g} tasks, {before.tasks[name]:g} before"
        for name in now
        if now[name] > before.tasks[name] + TASKS_OF_CHANCE
    ]


async def _books(scene: Scene, before: Before, histories: Iterable[History]) -> list[str]:
    """Ledger and journal agree, and have each answer that a client had, as it counted it."""
    settings = RabbitSettings(url=SecretStr(scene.servers.urls["rabbitmq"]))
    async with RabbitBus.open(settings, "chaos", "chaos") as bus:
        wrong = [line async for line in differences(bus, before.moment, time.time() + SETTLED_SECONDS)]
        billed = {entry.request_id: entry.completion_tokens async for entry in ledger(bus, before.moment)}
    for history in histories:
        if history.request_id and history.request_id not in billed:
            wrong.append(f"{history.request_id} is not in the ledger")
        elif history.end == "done" and history.request_id and billed[history.request_id] != history.tokens:
            wrong.append(f"{history.request_id} is billed {billed[history.request_id]}, not {history.tokens}")
    return wrong


async def queues_of_the_dead(scene: Scene) -> list[str]:
    """After all faults, for these queues live on for a minute."""

    async def look() -> list[str]:
        alive = {process.instance for process in scene.suite.processes.values()}
        names = await asyncio.to_thread(list_queues, scene.servers.embedded["rabbitmq"])
        owned = {name: match[0] for name in names if (match := INSTANCE.search(name))}
        return [f"the queue {name} of a dead process" for name, owner in owned.items() if owner not in alive]

    return await _at_last(look, QUEUES_SECONDS)


def list_queues(rabbitmq: EmbeddedServer) -> list[str]:
    node = rabbitmq.server.programs[-1]
    control = str(Path(node.argv[0]).with_name("rabbitmqctl"))
    command = [control, "-n", node.env["RABBITMQ_NODENAME"], "--quiet", "list_queues", "name", "--formatter", "json"]
    listed = subprocess.run(command, env=dict(node.env), check=True, capture_output=True, timeout=60).stdout
    return [queue["name"] for queue in json.loads(listed)]
