"""Requests as people look at them: from the journal, the token log and the queue, each organization its own."""

import time
from typing import Any
from uuid import uuid4

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.inference import Priority
from libs.common.contracts.paging import PageRequest
from libs.common.contracts.scheduler.inference import RequestInference
from libs.common.contracts.scheduler.queue import GetQueue, GetStats
from libs.common.contracts.scheduler.requests import GetRequest, ListRequests, RequestDetails
from libs.common.contracts.tokens import Frame, StreamEnd, StreamError, Usage, encode_frame
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import InvalidRequest, NotFound
from libs.common.token_log.store import Append, Card
from services.scheduler import queue
from services.scheduler.context import Context
from services.scheduler.store import requests as request_store
from services.scheduler.store.requests import JournalRow
from services.scheduler.waiting import Waiting
from tests.fixtures.builders import a_heartbeat, a_request, running
from tests.integration.scheduler.conftest import act_for

NOW = time.time()


def a_row(request_id: str, **changes: Any) -> JournalRow:
    row = {
        "request_id": request_id,
        "organization_id": "o",
        "user_id": "u",
        "key_id": None,
        "model": "m",
        "kind": "chat",
        "outcome": "done",
        "accepted_at": NOW,
        "finished_at": NOW + 1,
    }
    return JournalRow(**{**row, **changes})


async def journal(ctx: Context, *rows: JournalRow) -> None:
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await request_store.insert_requests(tx, rows)


async def accept(
    ctx: Context, organization: str = "o", user: str = "u", priority: Priority = "interactive"
) -> RequestInference:
    """As the gateway does, and with the card that it writes."""
    request = a_request(organization_id=organization, user_id=user, priority=priority)
    card = Card(organization, user, "", "echo", "chat", priority, request.accepted_at, request.deadline)
    await ctx.token_log.write_card(request.request_id, card)
    return request


async def wait(ctx: Context, *requests: RequestInference) -> None:
    """In the waiting set, and on the board where every replica sees it."""
    for request in requests:
        ctx.waiting.add(Waiting(request, None, time.time()))
    await queue.write(ctx)


async def ids(bus: Bus, **filters: Any) -> list[str]:
    return [each.id for each in (await bus.ask(ListRequests.model_validate(filters))).items]


async def test_an_organization_sees_its_own(ctx: Context, bus: Bus) -> None:
    await journal(ctx, a_row("a"), a_row("b", organization_id="p"))
    act_for("o")
    assert await ids(bus) == ["a"]
    assert (await bus.ask(GetRequest(request_id="a"))).status == "done"
    with pytest.raises(NotFound):
        await bus.ask(GetRequest(request_id="b"))


async def test_raw_sql_sees_and_writes_no_other_organization(ctx: Context) -> None:
    await journal(ctx, a_row("a"), a_row("b", organization_id="p"))
    async with ctx.db.transaction("o") as tx:
        rows = await (await tx.execute("select request_id from inference_requests")).fetchall()
        changed = await tx.execute("update inference_requests set model = 'x' where request_id = 'b'")
    assert rows == [("a",)]
    assert changed.rowcount == 0


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["d", "c", "b", "a"]),
        ({"status": "failed"}, ["b"]),
        ({"model": "n"}, ["c"]),
        ({"user_id": "v"}, ["c", "a"]),
        ({"key_id": "k"}, ["d"]),
        ({"accepted_from": NOW + 1, "accepted_before": NOW + 3}, ["c", "b"]),
        ({"user_id": "v", "model": "n", "status": "failed"}, []),
    ],
)
async def test_filters(ctx: Context, bus: Bus, filters: dict[str, Any], expected: list[str]) -> None:
    await journal(
        ctx,
        a_row("a", user_id="v"),
        a_row("b", outcome="failed", accepted_at=NOW + 1),
        a_row("c", model="n", user_id="v", accepted_at=NOW + 2),
        a_row("d", key_id="k", accepted_at=NOW + 3),
    )
    act_for("o")
    assert await ids(bus, **filters) == expected


async def test_pages_have_every_request_once_also_of_the_same_moment(ctx: Context, bus: Bus) -> None:
    await journal(ctx, *(a_row(f"r{number}", accepted_at=NOW + number // 3) for number in range(8)))
    act_for("o")
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await bus.ask(ListRequests(paging=PageRequest(limit=3, cursor=cursor)))
        found += [each.id for each in page.items]
        cursor = page.next_cursor
    assert found == [f"r{number}" for number in reversed(range(8))]


async def test_a_cursor_of_another_list(bus: Bus) -> None:
    with pytest.raises(InvalidRequest):
        await bus.ask(ListRequests(paging=PageRequest(cursor="WzFd")))


async def test_what_waits(ctx: Context, bus: Bus) -> None:
    batch, first, other = await accept(ctx, priority="batch"), await accept(ctx), await accept(ctx, "p", "v")
    now = time.monotonic()
    ctx.throughput.started(batch.model.runner, "done", now - 1)
    ctx.throughput.ended("done", now)
    ctx.throughput.started(batch.model.runner, "running", now)
    await wait(ctx, batch, first, other)
    act_for("o")
    details = await bus.ask(GetRequest(request_id=batch.request_id))
    assert (details.status, details.position, details.user_id) == ("waiting", 3, "u")
    assert details.estimated_wait_seconds is not None
    assert await ids(bus, status="waiting", user_id="u") == [first.request_id, batch.request_id]
    with pytest.raises(NotFound):
        await bus.ask(GetRequest(request_id=other.request_id))


async def test_what_runs(ctx: Context, bus: Bus) -> None:
    mine, other = await accept(ctx), await accept(ctx, "p", "v")
    heartbeat = a_heartbeat(running=(running(mine.request_id, epoch=2), running(other.request_id)))
    ctx.fleet.hear(heartbeat, time.monotonic())
    act_for("o")
    details = await bus.ask(GetRequest(request_id=mine.request_id))
    assert (details.status, details.node, details.worker_id, details.attempt_count) == ("running", "n1", "w1", 2)
    assert await ids(bus, status="running") == [mine.request_id]
    with pytest.raises(NotFound):
        await bus.ask(GetRequest(request_id=other.request_id))


async def test_what_was_only_just_accepted_waits(ctx: Context, bus: Bus) -> None:
    request = await accept(ctx)
    act_for("o")
    details = await bus.ask(GetRequest(request_id=request.request_id))
    assert (details.status, details.position) == ("waiting", None)


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "done"), (StreamError("engine_failed", ""), "failed"), (StreamError("request_cancelled", ""), "cancelled")],
)
async def test_what_ended_before_the_journal_knows(
    ctx: Context, bus: Bus, error: StreamError | None, status: str
) -> None:
    request = await accept(ctx)
    frame = Frame(request.request_id, 1, 1, end=StreamEnd("stop", Usage(5, 3), error))
    await ctx.token_log.append("", [Append(request.request_id, 1, 1, True, [encode_frame(frame)])])
    act_for("o")
    details = await bus.ask(GetRequest(request_id=request.request_id))
    assert (details.status, details.completion_tokens, details.attempt_count) == (status, 3, 1)


@pytest.mark.parametrize("alive", [True, False])
async def test_of_other_users_nothing_is_told_where_only_ones_own_are_asked_for(
    ctx: Context, bus: Bus, alive: bool
) -> None:
    request_id = (await accept(ctx)).request_id if alive else uuid4().hex
    await journal(ctx, *([] if alive else [a_row(request_id)]))
    act_for("o")
    assert (await bus.ask(GetRequest(request_id=request_id, user_id="u"))).id == request_id
    with pytest.raises(NotFound):
        await bus.ask(GetRequest(request_id=request_id, user_id="v"))


async def test_the_queue_counts_what_one_may_see(ctx: Context, bus: Bus) -> None:
    mine, others, elsewhere = await accept(ctx), await accept(ctx, user="v"), await accept(ctx, "p", "u")
    await wait(ctx, mine, others, elsewhere)
    act_for("o")
    own = await bus.ask(GetQueue(organization_id="o", user_id="u"))
    assert (own.waiting, [each.id for each in own.requests]) == (2, [mine.request_id])
    assert [each.organization_id for each in own.organizations] == ["o"]
    everybody = await bus.ask(GetQueue(organization_id=None, user_id="u"))
    assert (everybody.waiting, [each.id for each in everybody.requests]) == (3, [mine.request_id])


async def test_nobody_waits(ctx: Context, bus: Bus) -> None:
    await wait(ctx)
    assert (await bus.ask(GetQueue(organization_id=None, user_id="u"))).waiting == 0


async def test_statistics(ctx: Context, bus: Bus) -> None:
    now = time.time()
    times = {"accepted_at": now - 10, "first_token_at": now - 8, "finished_at": now - 5}
    await journal(
        ctx,
        *(a_row(f"r{n}", prompt_tokens=4, completion_tokens=6, **times) for n in range(3)),
        a_row("f", organization_id="p", outcome="failed", accepted_at=now - 10, finished_at=now - 5),
        a_row("old", accepted_at=now - 1000, finished_at=now - 900),
    )
    ctx.fleet.hear(a_heartbeat(running=(running("r"),)), time.monotonic())
    stats = await bus.ask(GetStats(window_seconds=60))
    assert (stats.requests, stats.done, stats.failed, stats.requests_per_minute) == (4, 3, 1, 4)
    assert stats.completion_tokens_per_second == pytest.approx(18 / 60)
    assert stats.time_to_first_token is not None
    assert stats.time_to_first_token.model_dump() == pytest.approx({"p50": 2, "p95": 2})
    assert (stats.running, stats.workers, stats.slots, stats.nodes) == (1, 1, 4, 1)


async def test_statistics_of_nothing(bus: Bus) -> None:
    stats = await bus.ask(GetStats(window_seconds=60))
    assert (stats.requests, stats.time_to_first_token, stats.duration) == (0, None, None)


def test_details_have_all_that_the_journal_has() -> None:
    known = set(JournalRow.__dataclass_fields__) - {"organization_id", "request_id", "outcome"}
    assert known <= set(RequestDetails.model_fields)
