"""``python -m libs.common.ledger_check``: do auth's token ledger and the scheduler's journal agree on every request?

Both are written from the same events, each exactly once. Prints what differs; exit status 1 if anything does.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final
from uuid import uuid4

from libs.common.bus.base import Bus
from libs.common.bus.rabbit import RabbitBus
from libs.common.contracts.auth.usage import ListLedger
from libs.common.contracts.inference import EndedRequest
from libs.common.contracts.scheduler.requests import ListJournal
from libs.common.settings import RabbitSettings

SETTLED_SECONDS: Final = 10.0
"""What ended less than this ago may be on its way into either."""

DAY_SECONDS: Final = 86_400

Page = Callable[[str], Awaitable[Sequence[EndedRequest]]]
Pair = tuple[EndedRequest | None, EndedRequest | None]


async def differences(bus: Bus, accepted_since: float, now: float) -> AsyncIterator[str]:
    """A line for each request on which they differ. Raises ``Unavailable`` if one of the services is away."""
    async for in_ledger, in_journal in _pairs(ledger(bus, accepted_since), _journal(bus, accepted_since)):
        if line := _difference(in_ledger, in_journal, now - SETTLED_SECONDS):
            yield line


def ledger(bus: Bus, accepted_since: float) -> AsyncIterator[EndedRequest]:
    """By request id. Raises ``Unavailable``."""
    return _requests(lambda after: bus.ask(ListLedger(accepted_since=accepted_since, after=after), timeout=30))


def _journal(bus: Bus, accepted_since: float) -> AsyncIterator[EndedRequest]:
    return _requests(lambda after: bus.ask(ListJournal(accepted_since=accepted_since, after=after), timeout=30))


async def _pairs(left: AsyncIterator[EndedRequest], right: AsyncIterator[EndedRequest]) -> AsyncIterator[Pair]:
    """Side by side, by request id."""
    one, other = await anext(left, None), await anext(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.request_id < other.request_id):
            yield one, None
            one = await anext(left, None)
        elif one is None or one.request_id > other.request_id:
            yield None, other
            other = await anext(right, None)
        else:
            yield one, other
            one, other = await anext(left, None), await anext(right, None)


async def _requests(ask: Page) -> AsyncIterator[EndedRequest]:
    after = ""
    while page := await ask(after):
        for request in page:
            yield request
        after = page[-1].request_id


def _difference(in_ledger: EndedRequest | None, in_journal: EndedRequest | None, settled_before: float) -> str:
    """Empty: none, or too early to tell."""
    known = [request for request in (in_ledger, in_journal) if request is not None]
    if max(request.finished_at for request in known) > settled_before:
        return ""
    request_id = known[0].request_id
    if in_ledger is None or in_journal is None:
        where = "the journal" if in_ledger is None else "the ledger"
        return f"{request_id}  only in {where}: {_shown(known[0].model_dump())}"
    ledger, journal = _compared(in_ledger), _compared(in_journal)
    if ledger == journal:
        return ""
    differing = {name for name in ledger if ledger[name] != journal[name]}
    mine, theirs = ({name: values[name] for name in sorted(differing)} for values in (ledger, journal))
    return f"{request_id}  ledger: {_shown(mine)}  journal: {_shown(theirs)}"


def _compared(request: EndedRequest) -> dict[str, object]:
    """Who tells an end again, tells its own time."""
    return request.model_dump(exclude={"finished_at", "accepted_at"})


def _shown(values: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


async def _run(days: float) -> int:
    now, count = time.time(), 0
    async with RabbitBus.open(RabbitSettings(), "ledger-check", uuid4().hex) as bus:
        async for line in differences(bus, now - days * DAY_SECONDS, now):
            count += 1
            sys.stdout.write(line + "\n")
    sys.stdout.write(f"{count} differences\n" if count else "ledger and journal agree\n")
    return 1 if count else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="ledger_check", description="Compare the token ledger with the journal.")
    parser.add_argument("--days", type=float, default=31.0, help="of requests accepted since (default: %(default)s)")
    sys.exit(asyncio.run(_run(parser.parse_args().days)))
