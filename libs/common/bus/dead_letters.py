"""Look at the dead letters, and send them back to the queues they died in.

    python -m libs.common.bus.dead_letters list [--limit N]
    python -m libs.common.bus.dead_letters replay [--queue NAME] [--limit N]

The broker's address is ``RABBITMQ_URL``, as for the services.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from yarl import URL

from libs.common.bus.envelope import ATTEMPT, DEADLINE, ERROR, QUEUE, REASON, Envelope
from libs.common.bus.rabbit_session import RabbitIncoming, Session
from libs.common.bus.topology import DEAD, DEFAULT
from libs.common.errors import Unavailable
from libs.common.settings import RabbitSettings

MOST_AT_ONCE: Final = 1000


@dataclass(frozen=True)
class DeadLetter:
    """``queue`` is where it died. Its body is not shown: it may hold prompts."""

    message_id: str
    type: str
    queue: str
    reason: str
    error: str
    attempt: int
    sent_at: datetime | None
    size: int


async def list_dead(url: str, limit: int = MOST_AT_ONCE) -> list[DeadLetter]:
    """Oldest first. They stay where they are."""
    async with aclosing(Session(URL(url), lambda: None)) as session:
        await session.open(retry_delays=())
        taken = await _take(session, limit)
        await _put_back(taken)
        return [_describe(incoming.envelope) for incoming in taken]


async def replay(url: str, *, queue: str | None = None, limit: int = MOST_AT_ONCE) -> tuple[list[DeadLetter], int]:
    """Send the oldest back, all or those that died in ``queue``: which ones, and how many had no queue to go to.

    They keep their ``message_id`` and start again at attempt 1 without a deadline.
    """
    replayed: list[DeadLetter] = []
    kept: list[RabbitIncoming] = []
    homeless = 0
    async with aclosing(Session(URL(url), lambda: None)) as session:
        await session.open(retry_delays=())
        for incoming in await _take(session, limit):
            letter = _describe(incoming.envelope)
            if queue is not None and letter.queue != queue:
                kept.append(incoming)
                continue
            try:
                await session.publish(_revived(incoming.envelope), DEFAULT, letter.queue, mandatory=True)
            except Unavailable:
                kept.append(incoming)
                homeless += 1
                continue
            await incoming.ack()
            replayed.append(letter)
        await _put_back(kept)
    return replayed, homeless


async def _take(session: Session, limit: int) -> list[RabbitIncoming]:
    taken: list[RabbitIncoming] = []
    while len(taken) < limit and (incoming := await session.take(DEAD)) is not None:
        taken.append(incoming)
    return taken


async def _put_back(taken: list[RabbitIncoming]) -> None:
    """One by one: a quorum queue gives back what a closed channel held in any order."""
    for incoming in taken:
        await incoming.nack(requeue=True)


def _describe(envelope: Envelope) -> DeadLetter:
    """What we gave up says so in our headers; what the broker gave up, in its own."""
    headers = envelope.headers
    return DeadLetter(
        message_id=envelope.message_id,
        type=envelope.type,
        queue=str(headers.get(QUEUE) or headers.get("x-first-death-queue", "")),
        reason=str(headers.get(REASON) or headers.get("x-first-death-reason", "")),
        error=str(headers.get(ERROR, "")),
        attempt=envelope.attempt,
        sent_at=envelope.sent_at,
        size=len(envelope.body),
    )


def _revived(envelope: Envelope) -> Envelope:
    clean = envelope.with_headers({})
    gone = (REASON, QUEUE, ERROR, ATTEMPT, DEADLINE)
    return replace(clean, headers={name: value for name, value in clean.headers.items() if name not in gone})


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dead_letters", description="The messages that no handler could handle.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("list", "show them, oldest first"), ("replay", "send them back to their queues")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--limit", type=int, default=MOST_AT_ONCE, help="look at this many (default: %(default)s)")
    commands.choices["replay"].add_argument("--queue", help="only those that died in this queue")
    return parser.parse_args(arguments)


async def _run(arguments: argparse.Namespace) -> None:
    url = RabbitSettings().url.get_secret_value()
    if arguments.command == "list":
        letters = await list_dead(url, arguments.limit)
        done = f"{len(letters)} dead letters"
    else:
        letters, homeless = await replay(url, queue=arguments.queue, limit=arguments.limit)
        done = f"{len(letters)} replayed" + (f", {homeless} left: their queues do not exist" if homeless else "")
    for letter in letters:
        when = letter.sent_at.isoformat(timespec="seconds") if letter.sent_at else "-"
        sys.stdout.write(f"{when}  {letter.message_id}  {letter.queue}  {letter.reason}  {letter.error}\n")
    sys.stdout.write(done + "\n")


if __name__ == "__main__":
    asyncio.run(_run(_arguments(None)))
