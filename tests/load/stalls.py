"""``python -m tests.load.stalls [--streams N] [--rounds N] [--write FILE]``: what readers see when their worker goes.

All streams run on three workers; one of these is killed, or frozen. Of each stream that it was making, the longest
time between two tokens counts, from the moment of the fault on. The echo engine makes a token every 50 ms and reads
no prompt: a real one's stall is longer by the reading of the prompt and the answer so far.
"""

import argparse
import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import uvloop

from tests.chaos.questions import GENERATE, Question, words
from tests.chaos.streams import Client, a_session
from tests.chaos.verdict import History, Verdict, judge
from tests.fixtures.suite import Process, Suite, a_suite, eventually
from tests.load import report
from tests.load.scenarios import percentile
from tests.load.servers import Servers, running_servers

WORKERS: Final = 3
TOKENS: Final = 240


@dataclass(frozen=True)
class Fault:
    """``pieces``: how much of each stream has come when it strikes. ``aim``: the longest stall, in seconds."""

    name: str
    signal: signal.Signals
    pieces: int
    aim: float


FAULTS: Final = (
    Fault("SIGKILL", signal.SIGKILL, 60, 1.0),
    Fault("SIGKILL, of streams that have just begun", signal.SIGKILL, 2, 1.0),
    Fault("SIGSTOP", signal.SIGSTOP, 60, 5.0),
)

PATIENCE_SECONDS: Final = 60.0


@dataclass
class Stalls:
    """``seconds``: of each stream that the fault has struck."""

    streams: int = 0
    intact: int = 0
    seconds: list[float] = field(default_factory=list)


@asynccontextmanager
async def suite_on(servers: Servers, directory: Path) -> AsyncIterator[Suite]:
    urls = (servers.rabbitmq_url, servers.redis_url, dict(servers.postgres_urls))
    suite = a_suite(directory, *urls, workers=0, REDIS_FINISHED_LOG_TTL_SECONDS="15")
    suite.processes["registry"].environment["REGISTRY_SEED_MODELS"] = "{}"
    suite.processes["auth"].environment["AUTH_BCRYPT_ROUNDS"] = "4"
    for _ in range(WORKERS):
        suite.add_worker(slots="1024", slots_per_model="1024")
    async with suite.running():
        yield suite


async def one_round(suite: Suite, api_key: str, streams: int, fault: Fault, stalls: Stalls) -> None:
    said = words(TOKENS)
    body = {"model": "echo-20", "prompt": "count", "options": {"num_predict": TOKENS}}
    question = Question("generate", GENERATE, body, tuple(said), " ".join(said), TOKENS)
    async with a_session(api_key) as session:
        clients = [Client(session, [suite.url]) for _ in range(streams)]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.ask(question))

            async def all_run() -> bool:
                return all(client.history and len(client.history[0].pieces) > fault.pieces for client in clients)

            await eventually(all_run, "all streams run", PATIENCE_SECONDS)
            victim = await busiest(suite)
            struck_at = time.monotonic()
            victim.signal(fault.signal)
        histories, ended_at = [client.history[0] for client in clients], time.monotonic()
        victim.kill()
        victim.start()
        await eventually(victim.ready, "the worker is back", PATIENCE_SECONDS)
        stalls.seconds += [history.gap(struck_at, ended_at) for history in await struck(suite, session, histories)]
    stalls.streams += len(histories)
    stalls.intact += sum(judge(history) is Verdict.INTACT for history in histories)


async def busiest(suite: Suite) -> Process:
    running = {
        name: await suite.metric(name, "worker_requests_running") for name in suite.processes if "worker" in name
    }
    return suite.processes[max(running, key=running.__getitem__)]


async def struck(suite: Suite, session: aiohttp.ClientSession, histories: Sequence[History]) -> list[History]:
    """Those that more than one worker has made, as the journal has it."""

    async def attempts(history: History) -> int:
        async with session.get(f"{suite.url}/api/v1/inference/requests/{history.request_id}") as answer:
            found = await answer.json()
        return int(found["attempt_count"]) if found.get("finished_at") else 0

    async def are_known() -> bool:
        return all([await attempts(history) for history in histories])

    await eventually(are_known, "the journal has all of them", PATIENCE_SECONDS)
    return [history for history in histories if await attempts(history) > 1]


async def main(options: argparse.Namespace, servers: Servers) -> str:
    rows = []
    with tempfile.TemporaryDirectory(prefix="stalls-") as directory:
        async with suite_on(servers, Path(directory)) as suite:
            api_key = await suite.api_key("stalls")
            for fault in FAULTS:
                stalls = Stalls()
                for _ in range(options.rounds):
                    await one_round(suite, api_key, options.streams, fault, stalls)
                rows.append(row(fault, stalls))
    header = ("a worker gets", "streams", "intact", "struck", "stall s p50/p99/longest", "aim s, p99")
    return report.table(header, rows)


def row(fault: Fault, stalls: Stalls) -> report.Cells:
    seconds = " / ".join(f"{percentile(stalls.seconds, percent):.2f}" for percent in (50, 99, 100))
    return fault.name, str(stalls.streams), str(stalls.intact), str(len(stalls.seconds)), seconds, f"{fault.aim:g}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load.stalls", description=__doc__)
    parser.add_argument("--streams", type=int, default=100, help="at once")
    parser.add_argument("--rounds", type=int, default=5, help="of each fault")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file, between markers")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = parse_arguments()
    with running_servers() as running:
        text = uvloop.run(main(chosen, running))
    print(text)
    if chosen.write:
        report.write(chosen.write, text, "stalls")
