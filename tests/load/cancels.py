"""``python -m tests.load.cancels [--latencies N] [--cancels N] [--write FILE]``: how soon a slot is free, what is left.

Three gateways, two workers. First all slots are taken and one more request waits: from the moment at which one that
runs is cancelled, by its client's going away or by a ``DELETE`` through another gateway, until the one that waits is
granted its slot. Then clients cancel thousands at any moment of their lives, waiting ones too, and everything is
searched for what they left behind.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import aiohttp
import uvloop

from tests.chaos.leaks import in_calm, leaks
from tests.chaos.network import Wires
from tests.chaos.scene import Scene, own_servers
from tests.chaos.streams import a_session
from tests.fixtures.suite import a_suite, eventually
from tests.load import report
from tests.load.scenarios import percentile

GATEWAYS: Final = 3
SLOTS: Final = 4
"""Of each worker."""

TOKENS: Final = 3000
"""A minute's: much longer than a request lives here before it is cancelled."""

CLIENTS: Final = 48
GENERATE: Final = "/api/v1/inference/generate"
REQUESTS: Final = "/api/v1/inference/requests"
WAYS: Final = ("client gone", "DELETE, same gateway", "DELETE, another gateway")
PATIENCE_SECONDS: Final = 60.0


@dataclass
class Running:
    """A request that has begun."""

    gateway: int
    answer: aiohttp.ClientResponse

    @property
    def id(self) -> str:
        return self.answer.headers["x-request-id"]


@dataclass
class Clients:
    """``gateways``: addresses."""

    session: aiohttp.ClientSession
    gateways: list[str]
    turns: Iterator[int] = field(default_factory=count)

    async def begin(self) -> Running:
        """Returns when it has its slot and the first token: until then it has no answer, not even a head."""
        gateway = next(self.turns) % len(self.gateways)
        body = {"model": "echo-50", "prompt": "count", "options": {"num_predict": TOKENS}}
        return Running(gateway, await self.session.post(self.gateways[gateway] + GENERATE, json=body))

    async def cancel(self, running: Running, way: str) -> None:
        if way == "client gone":
            running.answer.close()
            return
        gateway = running.gateway + (way == "DELETE, another gateway")
        url = f"{self.gateways[gateway % len(self.gateways)]}{REQUESTS}/{running.id}"
        async with self.session.delete(url):
            running.answer.close()


@asynccontextmanager
async def a_scene(directory: Path) -> AsyncIterator[Scene]:
    with own_servers() as (servers, postgres_urls):
        urls = (servers.urls["rabbitmq"], servers.urls["redis"], postgres_urls)
        suite = a_suite(directory, *urls, workers=0, GATEWAY_TRANSFERS_PER_CALLER="256")
        suite.processes["registry"].environment["REGISTRY_SEED_MODELS"] = "{}"
        suite.processes["auth"].environment["AUTH_BCRYPT_ROUNDS"] = "4"
        others = [suite.add_gateway(f"gateway-{number}")[0] for number in range(2, GATEWAYS + 1)]
        for _ in range(2):
            suite.add_worker(slots=str(SLOTS), slots_per_model=str(SLOTS))
        async with suite.running():
            key = await suite.api_key("cancels")
            yield Scene(suite, servers, Wires(), [suite.url, *others], random.Random(1), key)


async def latencies(scene: Scene, clients: Clients, samples: int) -> dict[str, list[float]]:
    """Seconds from a cancel to the grant of the slot that it frees, by way."""
    cancels: list[tuple[str, float, str]] = []
    running = [await clients.begin() for _ in range(2 * SLOTS)]
    for number in range(samples):
        way = WAYS[number % len(WAYS)]
        waiting = asyncio.create_task(clients.begin())
        await eventually(lambda: one_waits(scene), "one more waits", PATIENCE_SECONDS)
        victim = running.pop(scene.chance.randrange(len(running)))
        cancelled_at = time.time()
        await clients.cancel(victim, way)
        running.append(await waiting)
        cancels.append((way, cancelled_at, running[-1].id))
    for victim in running:
        await clients.cancel(victim, "client gone")
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for way, cancelled_at, request_id in cancels:
        seconds[way].append(await granted_at(clients, request_id) - cancelled_at)
    return seconds


async def one_waits(scene: Scene) -> bool:
    return bool(await scene.suite.metric("scheduler", "scheduler_requests_waiting"))


async def granted_at(clients: Clients, request_id: str) -> float:
    """As the journal has it, once it has."""
    found: list[float] = []

    async def is_known() -> bool:
        async with clients.session.get(f"{clients.gateways[0]}{REQUESTS}/{request_id}") as answer:
            details = await answer.json()
        if details.get("finished_at"):
            found.append(details["granted_at"])
        return bool(found)

    await eventually(is_known, "the journal has it", PATIENCE_SECONDS)
    return found[0]


async def many(scene: Scene, clients: Clients, cancels: int) -> dict[str, int]:
    """How many were cancelled, by way; ``waiting`` ones had not begun, ``refused`` ones were none."""
    done = dict.fromkeys((*WAYS, "waiting", "refused"), 0)
    tickets = iter(range(cancels))

    async def client(chance: random.Random) -> None:
        while next(tickets, None) is not None:
            done[await one_cancel(clients, chance)] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(random.Random(number)))
    return done


async def one_cancel(clients: Clients, chance: random.Random) -> str:
    beginning = asyncio.create_task(clients.begin())
    if chance.random() < 1 / 4:
        await asyncio.wait({beginning}, timeout=chance.random() / 20)
        if beginning.cancel():
            await asyncio.wait({beginning})
            return "waiting"
    running = await beginning
    if running.answer.status != 200:
        running.answer.close()
        return "refused"
    for _ in range(chance.randrange(4)):
        await running.answer.content.readline()
    way = chance.choice(WAYS)
    await clients.cancel(running, way)
    return way


async def main(options: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory(prefix="cancels-") as directory:
        async with a_scene(Path(directory)) as scene, a_session(scene.api_key) as session:
            clients = Clients(session, scene.gateways)
            for _ in scene.gateways:
                await clients.cancel(await clients.begin(), "client gone")
            before = await in_calm(scene)
            seconds = await latencies(scene, clients, options.latencies)
            began = time.monotonic()
            done = await many(scene, clients, options.cancels)
            took = time.monotonic() - began
            left = await leaks(scene, before, ())
    return "\n\n".join([latency_table(seconds), leak_table(done, took, left)])


def latency_table(seconds: dict[str, list[float]]) -> str:
    rows = [
        (way, str(len(some)), " / ".join(f"{percentile(some, percent) * 1e3:.0f}" for percent in (50, 99, 100)), "300")
        for way, some in {**seconds, "all": [one for some in seconds.values() for one in some]}.items()
    ]
    return report.table(("cancelled by", "samples", "ms to a free slot p50/p99/longest", "aim ms, p99"), rows)


def leak_table(done: dict[str, int], took: float, left: list[str]) -> str:
    counts = [str(number) for number in done.values()]
    cancels = sum(done.values()) - done["refused"]
    header = ("cancels", *(f"by {name}" if name in WAYS else name for name in done), "cancels/s", "left behind")
    return report.table(header, [(str(cancels), *counts, f"{cancels / took:.0f}", "; ".join(left) or "nothing")])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load.cancels", description=__doc__)
    parser.add_argument("--latencies", type=int, default=300, help="how many cancels are timed")
    parser.add_argument("--cancels", type=int, default=10_000, help="how many more there are, untimed")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this file, between markers")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = parse_arguments()
    text = uvloop.run(main(chosen))
    print(text)
    if chosen.write:
        report.write(chosen.write, text, "cancels")
