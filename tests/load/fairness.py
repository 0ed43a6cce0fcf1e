"""``python -m tests.load.fairness [--seconds S] [--write FILE]``: two organizations, one with ten times the load.

The slots of one worker of the echo engine are the bottleneck. Service is counted as the scheduler counts it, from
what clients receive: a token of an answer as two of a prompt. When both organizations always have somebody waiting,
each 30 s window tells how far apart their service is. When the small one asks for less than its half, it should
hardly notice the other; and nobody's fairness should cost tokens, so the same load of one organization is compared.
"""

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import httpx
import uvloop

from services.scheduler.accounts import INPUT_COST, OUTPUT_COST
from tests.chaos.streams import a_session
from tests.fixtures.suite import Suite, a_suite
from tests.load import report
from tests.load.scenarios import jain, percentile
from tests.load.servers import Servers, running_servers

SLOTS: Final = 128
TOKENS: Final = 10
MODEL: Final = "echo-5"
PROMPT: Final = "ten words that are counted as the prompt of it"
PROMPT_TOKENS: Final = len(PROMPT.split())

TIMES: Final = 10
FEW: Final = SLOTS // 4
"""Clients of the small organization that need less than its half of the slots."""

MANY: Final = SLOTS * 3 // 2
"""More than its half, also when all slots are free at once: somebody always waits."""

RAMP_SECONDS: Final = 20.0
WINDOW_SECONDS: Final = 30.0
STEP_SECONDS: Final = 1.0
BOUND: Final = 2 * max(INPUT_COST * PROMPT_TOKENS, OUTPUT_COST * SLOTS * (PROMPT_TOKENS + TOKENS))
"""Of the paper: so many tokens, prompts among them, are in memory at once."""


@dataclass
class Tenant:
    """What the clients of one organization received. Times are of a clock that never goes back."""

    session: aiohttp.ClientSession
    first_tokens: list[float] = field(default_factory=list)
    served: list[tuple[float, float]] = field(default_factory=list)
    """(when, how much)."""

    refusals: Counter[str] = field(default_factory=Counter)

    async def client(self, url: str, after: float, until: float) -> None:
        """``after``: so many seconds, for all at once are more than a door is made for."""
        await asyncio.sleep(after)
        body = {"model": MODEL, "prompt": PROMPT, "options": {"num_predict": TOKENS}}
        while (began := time.monotonic()) < until:
            async with self.session.post(f"{url}/api/generate", json=body) as answer:
                if answer.status != 200:
                    self.refusals[await answer.text()] += 1
                    continue
                before = INPUT_COST * PROMPT_TOKENS
                async for line in answer.content:
                    now = time.monotonic()
                    if before:
                        self.first_tokens.append(now - began)
                    self.served.append((now, before + (0 if b'"done":true' in line else OUTPUT_COST)))
                    before = 0

    def service(self, since: float, until: float) -> float:
        return sum(cost for at, cost in self.served if since <= at < until)


@dataclass(frozen=True)
class Run:
    """The measured time, without the ramp."""

    tenants: Sequence[Tenant]
    began: float
    ended: float

    def windows(self) -> list[list[float]]:
        """The service of each tenant in every window."""
        steps = int((self.ended - self.began - WINDOW_SECONDS) / STEP_SECONDS) + 1
        starts = [self.began + step * STEP_SECONDS for step in range(steps)]
        return [[tenant.service(start, start + WINDOW_SECONDS) for tenant in self.tenants] for start in starts]

    def total(self) -> float:
        """Per second."""
        return sum(tenant.service(self.began, self.ended) for tenant in self.tenants) / (self.ended - self.began)


async def run(url: str, keys: Sequence[str], clients: Sequence[int], seconds: float) -> Run:
    """So many clients of each key, each of which asks again as soon as it is answered."""
    began = time.monotonic() + RAMP_SECONDS
    tenants: list[Tenant] = []
    async with AsyncExitStack() as sessions, asyncio.TaskGroup() as group:
        for key, count in zip(keys, clients, strict=True):
            tenants.append(Tenant(await sessions.enter_async_context(a_session(key))))
            for number in range(count):
                after = RAMP_SECONDS / 2 * number / count
                group.create_task(tenants[-1].client(url, after, began + seconds))
    if refusals := sum((tenant.refusals for tenant in tenants), Counter()):
        raise RuntimeError(f"requests were refused: {refusals.most_common(3)}")
    return Run(tenants, began, began + seconds)


@asynccontextmanager
async def suite_on(servers: Servers, directory: Path) -> AsyncIterator[tuple[Suite, list[str]]]:
    """And an API key of each of two organizations."""
    urls = (servers.rabbitmq_url, servers.redis_url, dict(servers.postgres_urls))
    suite = a_suite(directory, *urls, workers=0, SCHEDULER_MAX_WAITING="4000")
    suite.processes["registry"].environment["REGISTRY_SEED_MODELS"] = "{}"
    suite.processes["auth"].environment["AUTH_BCRYPT_ROUNDS"] = "4"
    suite.add_worker(slots=str(SLOTS), slots_per_model=str(SLOTS))
    async with suite.running(), suite.admin() as admin:
        for organization in ("small", "big"):
            (
                await admin.post("/api/v1/organizations", json={"id": organization, "name": organization})
            ).raise_for_status()
        yield suite, [await a_key(suite, organization) for organization in ("small", "big")]


async def a_key(suite: Suite, organization: str) -> str:
    login = {"email": "admin@localhost", "password": suite.admin_password, "organization": organization}
    async with httpx.AsyncClient(base_url=suite.url, timeout=30) as http:
        token = (await http.post("/api/v1/auth/login", json=login)).raise_for_status().json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        made = await http.post("/api/v1/keys", json={"name": "fairness"}, headers=headers)
        return str(made.raise_for_status().json()["key"])


async def main(seconds: float, servers: Servers) -> str:
    with tempfile.TemporaryDirectory(prefix="fairness-") as directory:
        async with suite_on(servers, Path(directory)) as (suite, keys):
            backlogged = await run(suite.url, keys, (MANY, TIMES * MANY), WINDOW_SECONDS + seconds)
            alone = await run(suite.url, keys[:1], (FEW,), seconds)
            together = await run(suite.url, keys, (FEW, TIMES * FEW), seconds)
            one_queue = await run(suite.url, keys[1:], (FEW + TIMES * FEW,), seconds)
    return tables(backlogged, alone, together, one_queue)


def tables(backlogged: Run, alone: Run, together: Run, one_queue: Run) -> str:
    windows = backlogged.windows()
    gap = max(abs(small - big) for small, big in windows)
    by_itself, beside = (percentile(one.tenants[0].first_tokens, 95) for one in (alone, together))
    rows = [
        ("largest service gap in 30 s, tokens", f"{gap:.0f}", f"{BOUND:.0f}"),
        ("service in 30 s, tokens, mean", f"{sum(map(sum, windows)) / len(windows):.0f}", ""),
        ("least Jain's index in 30 s", f"{min(map(jain, windows)):.4f}", ">= 0.95"),
        ("small one's p95 to first token, ms: alone", f"{by_itself * 1e3:.0f}", ""),
        (
            "small one's p95 to first token, ms: beside the big one",
            f"{beside * 1e3:.0f}",
            f"<= {by_itself * 1.5e3:.0f}",
        ),
        ("big one's p95 to first token, ms", f"{percentile(together.tenants[1].first_tokens, 95) * 1e3:.0f}", ""),
        ("throughput of that of one queue", f"{together.total() / one_queue.total():.3f}", ">= 0.98"),
    ]
    return report.table(("two organizations, one offers ten times the load", "measured", "aim"), rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load.fairness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run; the first takes 30 s more")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file, between markers")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = parse_arguments()
    with running_servers() as running:
        text = uvloop.run(main(chosen.seconds, running))
    print(text)
    if chosen.write:
        report.write(chosen.write, text, "fairness")
