"""Ledger and journal on real databases, asked over one bus: what differs is found, what is too young is not."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.worker import InferenceFinished
from libs.common.database import Database
from libs.common.ledger_check import differences
from libs.common.limits.store import LimitStore
from libs.common.redis_client import open_redis
from libs.common.settings import RedisSettings
from services.auth.handlers import usage
from services.auth.ledger import open_ledger
from services.scheduler.handlers import journal
from services.scheduler.journal import open_journal
from tests.fixtures.batches import written
from tests.fixtures.builders import an_end


@dataclass
class Books:
    ledger: Database
    journal: Database
    bus: MemoryBus
    limits: LimitStore

    async def enter(self, ledger: Sequence[InferenceFinished], journal: Sequence[InferenceFinished]) -> None:
        await written(open_ledger(self.ledger), ledger)
        await written(open_journal(self.journal, self.limits, 50), journal)

    async def differences(self, *, since: float = 0) -> list[str]:
        return [line async for line in differences(self.bus, since, time.time())]


@dataclass
class OnlyDatabase:
    db: Database


@pytest.fixture
async def books(auth_db: Database, scheduler_db: Database, redis_url: str) -> AsyncIterator[Books]:
    broker = MemoryBroker()
    async with (
        MemoryBus.open(broker, "auth", "a") as auth,
        MemoryBus.open(broker, "scheduler", "s") as scheduler,
        MemoryBus.open(broker, "check", "c") as bus,
        open_redis(RedisSettings(url=redis_url)) as client,
    ):
        await auth.subscribe(usage.handlers, OnlyDatabase(auth_db))
        await scheduler.subscribe(journal.handlers, OnlyDatabase(scheduler_db))
        yield Books(auth_db, scheduler_db, bus, LimitStore(client))


async def test_they_agree(books: Books) -> None:
    events = [an_end() for _ in range(30)]
    await books.enter(ledger=events, journal=[*reversed(events), *events])
    assert await books.differences() == []


async def test_whatever_differs_is_found(books: Books) -> None:
    same, ledgers, journals = an_end(), an_end(), an_end()
    tokens, whose = an_end(completion_tokens=7), an_end(user_id="u")
    other_tokens = tokens.model_copy(update={"completion_tokens": 8})
    others = whose.model_copy(update={"user_id": None})
    await books.enter(ledger=[same, ledgers, tokens, whose], journal=[others, other_tokens, journals, same])
    lines = {line.split()[0]: line.split("  ", 1)[1] for line in await books.differences()}
    assert set(lines) == {ledgers.request_id, journals.request_id, tokens.request_id, whose.request_id}
    assert lines[ledgers.request_id].startswith("only in the ledger: ")
    assert lines[journals.request_id].startswith("only in the journal: ")
    assert lines[tokens.request_id] == "ledger: completion_tokens=7  journal: completion_tokens=8"
    assert lines[whose.request_id] == "ledger: user_id=u  journal: user_id=None"


async def test_what_has_just_ended_is_not_compared_yet(books: Books) -> None:
    await books.enter(ledger=[an_end(finished_at=time.time())], journal=[])
    assert await books.differences() == []


async def test_only_what_was_accepted_since(books: Books) -> None:
    await books.enter(ledger=[an_end(finished_at=1e9), recent := an_end(finished_at=1.1e9)], journal=[])
    [line] = await books.differences(since=1.05e9)
    assert line.startswith(recent.request_id)


async def test_more_than_a_page(books: Books) -> None:
    events = [an_end() for _ in range(2500)]
    await books.enter(ledger=events, journal=events[1:])
    [line] = await books.differences()
    assert line.startswith(events[0].request_id)
