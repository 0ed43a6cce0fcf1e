"""``python -m tests.load.simulation [--quick] [--write FILE]``: the scheduler's decisions alone, without network.

What one decision costs, and how that grows with those who wait and with the fleet: the real pass of grants on a real
waiting set and a real fleet. Grants are sent up to the encoded message, which is thrown away: the broker's client and
the event loop are not in these numbers. Times are of one core's CPU, so that a busy machine does not change them much.
Then fair sharing on a server with slots, with the clock of its ticks.
"""

import argparse
import asyncio
import base64
import gc
import logging
import random
import statistics
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import structlog
from pydantic import SecretStr

from libs.common.bus.envelope import enclose
from libs.common.contracts.inference import ModelRef
from libs.common.contracts.message import Command
from libs.common.contracts.worker import WorkerHeartbeat
from libs.common.runtime_config import RuntimeConfig
from services.scheduler import dispatch, queue
from services.scheduler.context import Context
from services.scheduler.fleet import Worker
from services.scheduler.settings import Settings
from services.scheduler.waiting import Waiting
from tests.fixtures.builders import a_heartbeat, a_loaded_model, a_model, a_request, an_end, running
from tests.load import report, sharing_simulation

MODELS: Final = [
    a_model(name=f"model-{number}", engine="llama_cpp", weights=f"sha256:{number}") for number in range(20)
]
ORGANIZATIONS: Final = 1000
SIZES: Final = ((10, 1000), (100, 1000), (1000, 1000), (1000, 10_000), (1000, 100_000), (10, 100_000))
"""Nodes, and requests that wait."""

GRANTS: Final = 5000
SLOTS: Final = 4
MOST_FREED: Final = 10
"""Slots that become free before the next pass."""


class Later:
    """Grants are sent when told to; whatever else would be is thrown away."""

    def __init__(self) -> None:
        self._grants: list[Coroutine[Any, Any, Any]] = []

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> None:
        if name == "grant":
            self._grants.append(coroutine)
        else:
            coroutine.close()

    def run(self) -> None:
        """Nothing in them waits."""
        for coroutine in self._grants:
            with suppress(StopIteration):
                coroutine.send(None)
        self._grants.clear()


class NoBroker:
    connected, connections = True, 1

    async def send(self, command: Command, *, to: str, message_id: str) -> None:
        enclose(command, message_id=message_id)


def a_context(tasks: Any) -> Context:
    key = SecretStr(base64.b64encode(bytes(32)).decode())
    settings = Settings(secret_key=key, max_waiting_tokens=1 << 40)
    settings = settings.model_copy(update={"max_waiting": 100_000})  # more than a broker would deliver
    nothing, bus = cast(Any, None), cast(Any, NoBroker())
    return Context(RuntimeConfig(settings), bus, nothing, tasks, nothing, nothing, nothing, nothing)


def a_request_of_somebody(model: ModelRef) -> Waiting:
    number = random.randrange(ORGANIZATIONS)
    request = a_request(
        organization_id=f"organization-{number}",
        key_id=f"key-{number}-{random.randrange(3)}",
        model=model,
        prompt_tokens=random.randrange(10, 2000),
        answer_tokens=random.randrange(10, 500),
        deadline=time.time() + 1e9 + random.random(),
    )
    return Waiting(request, None, time.time())


def fill(ctx: Context, nodes: int, waiting: int) -> None:
    for number in range(nodes):
        loaded = tuple(a_loaded_model(model, slots=2) for model in random.sample(MODELS, 2))
        heartbeat = a_heartbeat(worker_id=f"w{number}", node=f"n{number}", slots=SLOTS, loaded=loaded)
        ctx.fleet.hear(heartbeat, time.monotonic())
    while len(ctx.waiting) < waiting:
        for _ in range(waiting - len(ctx.waiting)):
            ctx.waiting.add(a_request_of_somebody(random.choice(MODELS)))
        passes(ctx)


def passes(ctx: Context) -> list[Waiting]:
    """Until nothing more can be granted: what has been, and is not sent yet."""
    ctx.wake.set()
    while ctx.wake.is_set():
        ctx.wake.clear()
        dispatch.grant_all(ctx)
    return list(ctx.granting.values())


@contextmanager
def cpu(spent: list[float]) -> Iterator[None]:
    began = time.process_time()
    yield
    spent.append(time.process_time() - began)


@dataclass(frozen=True)
class Cost:
    """In microseconds of CPU, per piece."""

    nodes: int
    waiting: int
    accept: float
    grant: float
    send: float
    release: float
    report: float
    idle_pass: float
    board: float

    @property
    def grants_per_second(self) -> float:
        """Of the whole life of a request in here: accepted, granted, sent, ended."""
        return 1e6 / (self.accept + self.grant + self.send + self.release)


def measure(nodes: int, waiting: int, grants: int) -> Cost:
    tasks = Later()
    ctx = a_context(tasks)
    fill(ctx, nodes, waiting)
    tasks.run()
    under_way = {request_id for worker in ctx.fleet for request_id in worker.grants}
    accepting: list[float] = []
    granting: list[float] = []
    sending: list[float] = []
    releasing: list[float] = []
    count = 0
    while count < grants:
        ended = random.sample(sorted(under_way), min(MOST_FREED, len(under_way)))
        ends = [(request_id, ctx.fleet.holder(request_id)) for request_id in ended]
        events = [an_end(request_id=name, worker_id=worker.id) for name, worker in ends if worker is not None]
        with cpu(releasing):
            for event in events:
                ctx.meters.end(event)
                ctx.throughput.ended(event.request_id, time.monotonic())
                ctx.fleet.release(event.worker_id, event.request_id)
        with cpu(granting):
            granted = passes(ctx)
        with cpu(sending):
            tasks.run()
        under_way.difference_update(ended)
        under_way.update(each.request.request_id for each in granted)
        count += len(granted)
        newcomers = [a_request_of_somebody(random.choice(MODELS)) for _ in granted]
        with cpu(accepting):
            for newcomer in newcomers:
                dispatch.accept(ctx, newcomer)
    reports = [report_of(worker).model_dump_json() for worker in ctx.fleet]
    reporting: list[float] = []
    with cpu(reporting):
        for report in reports:
            ctx.fleet.hear(WorkerHeartbeat.model_validate_json(report), time.monotonic())
    idle: list[float] = []
    for _ in range(20):
        with cpu(idle):
            passes(ctx)
    tasks.run()
    board: list[float] = []
    for _ in range(5):
        with cpu(board):
            queue.compose(ctx, time.monotonic())
    return Cost(
        nodes,
        waiting,
        accept=1e6 * sum(accepting) / count,
        grant=1e6 * sum(granting) / count,
        send=1e6 * sum(sending) / count,
        release=1e6 * sum(releasing) / count,
        report=1e6 * sum(reporting) / nodes,
        idle_pass=1e6 * statistics.median(idle),
        board=1e6 * statistics.median(board),
    )


def report_of(worker: Worker) -> WorkerHeartbeat:
    """As it comes every second, from each of them."""
    runs = tuple(running(grant.request_id, grant.epoch, grant.runner) for grant in worker.grants.values())
    return worker.heartbeat.model_copy(update={"running": runs})


def table(costs: list[Cost]) -> str:
    lines = [
        "| nodes | waiting | accept, µs | grant, µs | send, µs | release, µs | requests/s "
        "| report of a worker, µs | pass without a slot, µs | board, ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        lines.append(
            f"| {cost.nodes} | {cost.waiting} | {cost.accept:.0f} | {cost.grant:.0f} | {cost.send:.0f} "
            f"| {cost.release:.0f} | {cost.grants_per_second:.0f} | {cost.report:.0f} | {cost.idle_pass:.0f} "
            f"| {cost.board / 1000:.1f} |"
        )
    return "\n".join(lines)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file, between markers")
    arguments = parser.parse_args()
    gc.freeze()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    grants = GRANTS // 10 if arguments.quick else GRANTS
    random.seed(5)
    costs = table([measure(nodes, waiting, grants) for nodes, waiting in SIZES])
    text = costs + "\n\n" + sharing_simulation.report(share=0.2 if arguments.quick else 1.0)
    print(text)
    if arguments.write:
        report.write(arguments.write, text, "simulation")


if __name__ == "__main__":
    asyncio.run(main())
