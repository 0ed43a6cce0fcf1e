"""What is put to the test: real servers, all five services several times over, and proxies in some of their wires."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from inspect import unwrap
from pathlib import Path

import psutil

from tests.chaos.network import Wires, laid_wires
from tests.fixtures import infra
from tests.fixtures.infra import Infrastructure
from tests.fixtures.minilm import write_minilm_gguf
from tests.fixtures.suite import Process, Suite, a_suite, eventually

EMBEDDER = "all-minilm"
BACK_SECONDS = 120.0
SLOTS = {"slots": "512", "slots_per_model": "64", "max_loaded_models": "20", "context_length": "256"}
"""Of each worker: one that is left runs what all have run. The context is short, for a real model has it 64 times."""

LOG_SECONDS = "15"
"""Ended answers are kept for so long: nobody reads one on after more."""


@dataclass
class Scene:
    suite: Suite
    servers: Infrastructure
    wires: Wires
    gateways: list[str]
    chance: random.Random
    api_key: str

    def named(self, service: str) -> list[str]:
        return [name for name, process in self.suite.processes.items() if process.service == service]

    def one_of(self, service: str) -> Process:
        return self.suite.processes[self.chance.choice(self.named(service))]

    async def back(self, *processes: Process) -> None:
        await asyncio.gather(*(eventually(p.ready, f"{p.service} is back", BACK_SECONDS) for p in processes))

    async def restart(self, process: Process) -> None:
        process.start()
        await self.back(process)

    async def active_scheduler(self) -> Process:
        """The one that grants; both count what they grant themselves."""
        names, deadline = self.named("scheduler"), time.monotonic() + BACK_SECONDS
        before = {name: await self.granted(name) for name in names}
        while time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            for name in names:
                if await self.granted(name) > before[name]:
                    return self.suite.processes[name]
        raise AssertionError("no scheduler grants anything")

    async def granted(self, name: str) -> float:
        return await self.suite.metric(name, "scheduler_grants_total")

    async def busy_worker(self, *, real: bool = False) -> Process:
        """One that runs requests; ``real``: with a real model in memory."""
        found: list[Process] = []

        async def is_there() -> bool:
            for name in self.chance.sample(self.named("worker"), len(self.named("worker"))):
                if await self.suite.metric(name, "worker_requests_running"):
                    found.append(self.suite.processes[name])
            found[:] = [process for process in found if not real or engines_of(process)]
            return bool(found)

        await eventually(is_there, "a worker is busy", BACK_SECONDS)
        return found[0]


def engines_of(process: Process) -> list[psutil.Process]:
    """The processes of its models."""
    assert process.popen is not None
    return psutil.Process(process.popen.pid).children()


@contextmanager
def own_servers() -> Iterator[tuple[Infrastructure, dict[str, str]]]:
    """To be killed at will, and a database for each service by name."""
    databases = contextmanager(unwrap(infra.postgres_urls))
    with infra.embedded_servers(list(infra.SERVERS)) as servers, databases(servers.urls["postgres"]) as urls:
        yield servers, urls


@asynccontextmanager
async def a_scene(directory: Path, workers: int, chance: random.Random) -> AsyncIterator[Scene]:
    """Running, with an API key: two gateways, two schedulers, ``workers``, auth and registry, on their own servers."""
    with own_servers() as (servers, postgres_urls):
        suite = a_suite(
            directory,
            servers.urls["rabbitmq"],
            servers.urls["redis"],
            postgres_urls,
            workers=0,
            models={EMBEDDER: write_minilm_gguf(directory / "all-minilm.gguf")},
            REDIS_FINISHED_LOG_TTL_SECONDS=LOG_SECONDS,
            GATEWAY_TRANSFERS_PER_CALLER="256",
            SCHEDULER_MAX_WAITING="2000",
        )
        other, _ = suite.add_gateway("gateway-2")
        suite.add("scheduler", "scheduler-2")
        for _ in range(workers):
            suite.add_worker(**SLOTS)
        wired = ("worker-0", "scheduler", "scheduler-2", "gateway-2")
        async with laid_wires(suite, wired) as wires, suite.running():
            yield Scene(suite, servers, wires, [suite.url, other], chance, await suite.api_key("chaos"))
