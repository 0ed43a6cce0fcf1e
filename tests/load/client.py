"""The load generator: closed loops of C clients, an open loop at a rate; checks that every answer is whole."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import msgspec

REQUEST_SECONDS = 30.0


class Line(msgspec.Struct):
    response: str = ""
    done: bool = False


@dataclass(frozen=True)
class Sample:
    """One request: seconds to its first token and to its end; ``text`` is None if it failed or broke off."""

    first_token: float
    total: float
    text: str | None


@dataclass(frozen=True)
class Load:
    """What to ask, and of whom."""

    session: aiohttp.ClientSession
    url: str
    model: str
    tokens: int

    async def one(self, began: float | None = None) -> Sample:
        """``began``: when it was due, if earlier, so that a generator that falls behind does not hide a wait."""
        clock = time.perf_counter
        began = began or clock()
        first, chunks = 0.0, []
        body = {"model": self.model, "prompt": "count", "options": {"num_predict": self.tokens, "seed": 1}}
        try:
            async with self.session.post(f"{self.url}/api/generate", json=body) as response:
                async for chunk in response.content.iter_any():
                    first = first or clock()
                    chunks.append(chunk)
                text = _whole_text(b"".join(chunks)) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
            text = None
        ended = clock()
        return Sample((first or ended) - began, ended - began, text)


def _whole_text(body: bytes) -> str | None:
    lines = msgspec.json.Decoder(Line).decode_lines(body)
    return "".join(line.response for line in lines) if lines and lines[-1].done else None


@asynccontextmanager
async def a_session(headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers=dict(headers), timeout=timeout
    ) as session:
        yield session


async def closed_loop(load: Load, clients: int, most: int, seconds: float) -> list[Sample]:
    """Each client asks again as soon as it is answered, until ``most`` requests are begun or the time is over."""
    samples: list[Sample] = []
    end, tickets = time.perf_counter() + seconds, iter(range(most))

    async def client() -> None:
        while time.perf_counter() < end and next(tickets, None) is not None:
            samples.append(await load.one())

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return samples


async def open_loop(load: Load, rate: float, seconds: float) -> list[Sample]:
    """``rate`` requests a second, evenly spaced, whether or not earlier ones are answered."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(due - time.perf_counter())
            tasks.append(group.create_task(load.one(due)))
    return [task.result() for task in tasks]
