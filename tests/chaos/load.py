"""Steady load: so many clients, each of which asks again as soon as it is answered."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain

from tests.chaos import questions
from tests.chaos.questions import Question, Questions
from tests.chaos.streams import Client, a_session
from tests.chaos.verdict import History
from tests.fixtures.suite import eventually

BEGIN_SECONDS = 120.0


@dataclass(frozen=True)
class Amount:
    echo: int = 200
    real: int = 4
    rate: int = 10
    """Tokens a second of each echo stream."""


@dataclass
class Load:
    clients: Sequence[Client]
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def histories(self) -> list[History]:
        return list(chain.from_iterable(client.history for client in self.clients))

    async def all_run(self) -> bool:
        """Each client has had the beginning of an answer."""
        return all(any(history.pieces for history in client.history) for client in self.clients)

    async def until_over(self, client: Client, asked: Iterator[Question]) -> None:
        while not self.over.is_set():
            await client.ask(next(asked))

    def heard_since(self, moment: float) -> bool:
        """Each client has had a piece since."""
        return all(
            any(history.pieces and history.pieces[-1].at > moment for history in client.history)
            for client in self.clients
        )


@asynccontextmanager
async def running(gateways: Sequence[str], api_key: str, amount: Amount) -> AsyncIterator[Load]:
    """Entered when every client is being answered; left when every one has its last answer."""
    echo, real = Questions(amount.rate).echo(), questions.real()
    async with a_session(api_key) as session:
        load = Load([Client(session, gateways, turn) for turn in range(amount.echo + amount.real)])
        async with asyncio.TaskGroup() as group:
            try:
                for number, client in enumerate(load.clients):
                    group.create_task(load.until_over(client, echo if number < amount.echo else real))
                await eventually(load.all_run, "every client is answered", BEGIN_SECONDS)
                yield load
            finally:
                load.over.set()


async def everybody_heard(load: Load, seconds: float) -> None:
    """After a fault: every client is being answered again, or the load's own patience tells who is not."""
    healed = time.monotonic()

    async def is_so() -> bool:
        return load.heard_since(healed)

    try:
        await eventually(is_so, "every client is answered again", seconds)
    except AssertionError:
        return
