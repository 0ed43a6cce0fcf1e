"""Do logins slow streams? The same paced streams twice: alone, and while clients do nothing but log in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp

from tests.load.client import REQUEST_SECONDS
from tests.load.scenarios import PACED, Measurement, Scenario, Target, measure

CLIENTS = 4
STREAMS = replace(PACED, name="64 tokens 20 ms apart, 50 clients", clients=50)


@dataclass(frozen=True)
class LoginLoad:
    alone: Measurement
    during_logins: Measurement
    logins: int


async def measure_logins(target: Target, share: float) -> LoginLoad:
    scenario: Scenario = replace(STREAMS, seconds=STREAMS.seconds * share)
    alone = await measure(target, scenario, 0)
    async with logging_in(target) as count:
        during = await measure(target, scenario, 0)
    return LoginLoad(alone, during, count[0])


@asynccontextmanager
async def logging_in(target: Target) -> AsyncIterator[list[int]]:
    """Yields the number of logins that succeeded, which grows. Raises ``RuntimeError`` if none did."""
    count = [0]
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(target.url, timeout=timeout) as session:

        async def client() -> None:
            while True:
                async with session.post("/api/v1/auth/login", json=dict(target.login)) as response:
                    count[0] += response.status == 200

        clients = [asyncio.create_task(client(), name="log in") for _ in range(CLIENTS)]
        try:
            yield count
        finally:
            for task in clients:
                task.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
    if not count[0]:
        raise RuntimeError("nobody could log in")
