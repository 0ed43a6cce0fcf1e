"""The token ledger: each request once, whatever is redelivered and whoever writes; its sums are what usage shows."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest

from libs.common.bus.base import Bus
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.auth.usage import CountTokens, GetUsage, ListLedger, Span, UsageRow
from libs.common.contracts.paging import PageRequest
from libs.common.contracts.worker import InferenceFinished
from libs.common.database import EVERY_ORGANIZATION, Database
from libs.common.errors import InvalidRequest
from services.auth.context import Context
from services.auth.store import ledger as ledger_store
from tests.fixtures import builders
from tests.fixtures.suite import eventually

FIRST, SECOND = date(2026, 11, 20), date(2026, 11, 21)


def noon(day: date) -> float:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()


def an_end(day: date = FIRST, **changes: Any) -> InferenceFinished:
    return builders.an_end(finished_at=noon(day), **changes)


@pytest.fixture
async def writing(ctx: Context) -> AsyncIterator[None]:
    running = asyncio.create_task(ctx.ledger.run())
    yield
    running.cancel()


async def insert(db: Database, events: Sequence[InferenceFinished]) -> None:
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        await ledger_store.insert_requests(tx, events)


async def total(bus: Bus) -> tuple[int, int, int]:
    [row] = (await bus.ask(GetUsage(organization_id="o", group_by=()))).items
    return row.requests, row.prompt_tokens, row.completion_tokens


@pytest.mark.usefixtures("writing")
async def test_an_event_that_comes_twice_is_billed_once(ctx: Context, bus: Bus, broker: MemoryBroker) -> None:
    events = [an_end() for _ in range(20)]
    async with MemoryBus.open(broker, "worker", "w1") as worker:
        for event in [*events, *reversed(events), events[0]]:
            await worker.publish(event)

        async def all_are_there() -> bool:
            entries = await bus.ask(ListLedger(accepted_since=0))
            return len(entries) == len(events)

        await eventually(all_are_there, "all requests are in the ledger")
        await ctx.ledger.flush(10)
    assert await total(bus) == (20, 100, 140)
    entries = await bus.ask(ListLedger(accepted_since=0))
    assert [entry.request_id for entry in entries] == sorted(event.request_id for event in events)


async def test_replicas_that_write_the_same_at_once(ctx: Context, bus: Bus) -> None:
    """In any order: neither a deadlock nor a double."""
    events = [an_end(user_id=f"u{i % 3}", model=f"m{i % 5}") for i in range(300)]
    await asyncio.gather(*(insert(ctx.db, events[:: 1 if turn % 2 else -1]) for turn in range(6)))
    assert await total(bus) == (300, 1500, 2100)


async def test_usage_by_what_is_asked(ctx: Context, bus: Bus) -> None:
    await insert(
        ctx.db,
        [
            an_end(),
            an_end(user_id="v", key_id=None, model="other:latest"),
            an_end(SECOND, user_id=None, key_id=None),
            an_end(organization_id="elsewhere"),
        ],
    )

    async def asked(**query: Any) -> list[UsageRow]:
        return list((await bus.ask(GetUsage.model_validate({"organization_id": "o"} | query))).items)

    assert [(row.day, row.requests) for row in await asked()] == [(SECOND, 1), (FIRST, 2)]
    assert [(row.user_id, row.requests) for row in await asked(group_by=("user",))] == [(None, 1), ("u", 1), ("v", 1)]
    assert [row.key_id for row in await asked(group_by=("key",))] == [None, "k"]
    by_both = await asked(group_by=("model", "day"))
    assert [(row.day, row.model) for row in by_both] == [
        (SECOND, "echo:latest"),
        (FIRST, "echo:latest"),
        (FIRST, "other:latest"),
    ]
    assert [row.requests for row in await asked(group_by=(), user_id="v")] == [1]
    assert [row.requests for row in await asked(group_by=(), since=FIRST, until=FIRST)] == [2]
    assert [row.requests for row in await asked(group_by=(), model="echo:latest")] == [2]
    assert await asked(group_by=(), model="unknown") == []


async def test_usage_of_models_that_a_key_may_not_see_is_not_told(ctx: Context, bus: Bus) -> None:
    models = ("mine:latest", "mine", "mine:8b", "secret:latest", "secret:8b")
    await insert(ctx.db, [an_end(model=model) for model in models])

    async def asked(patterns: tuple[tuple[str, ...], ...], **query: Any) -> list[tuple[str | None, int]]:
        query |= {"organization_id": "o", "patterns": patterns}
        page = await bus.ask(GetUsage.model_validate(query))
        return [(row.model, row.requests) for row in page.items]

    by_model = {"group_by": ("model",)}
    assert await asked((("mine",),), **by_model) == [("mine", 1), ("mine:latest", 1)]
    assert await asked((("*",), ("*:8b", "nothing")), **by_model) == [("mine:8b", 1), ("secret:8b", 1)]
    assert await asked((("mine*",),), group_by=()) == [(None, 3)]
    assert await asked((("mine*",),), model="secret:latest") == []
    assert await asked((("mine:latest",),), group_by=(), model="mine:latest") == [(None, 2)]
    assert await asked((("nothing",),)) == []


async def test_pages_of_usage(ctx: Context, bus: Bus) -> None:
    await insert(ctx.db, [an_end(model=f"m{i}") for i in range(5)])
    seen: list[str | None] = []
    cursor: str | None = ""
    while cursor is not None:
        request = PageRequest(limit=2, cursor=cursor)
        page = await bus.ask(GetUsage(organization_id="o", group_by=("model",), page=request))
        seen += [row.model for row in page.items]
        cursor = page.next_cursor
    assert seen == [f"m{i}" for i in range(5)]


@pytest.mark.parametrize("cursor", ["Wy0xXQ==", "WzFlOTld", "WzEyMzQ1Njc4OTAxMjNd", "xx"])
async def test_a_cursor_that_is_none(bus: Bus, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        await bus.ask(GetUsage(organization_id="o", page=PageRequest(cursor=cursor)))


async def test_tokens_are_counted_for_each_span(ctx: Context, bus: Bus) -> None:
    await insert(ctx.db, [an_end(), an_end(SECOND, user_id="v", key_id="l", model="Other:latest")])
    spans = (
        Span(since=FIRST),
        Span(since=SECOND),
        Span(since=FIRST, user_id="u"),
        Span(since=FIRST, key_id="l"),
        Span(since=FIRST, models="oth*"),
        Span(since=FIRST, models="nothing*"),
    )
    assert await bus.ask(CountTokens(organization_id="o", spans=spans)) == (24, 12, 12, 12, 12, 0)
