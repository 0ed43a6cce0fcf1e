"""The scripts and the reading side of one Redis."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import redis.asyncio as redis

from libs.common.contracts.inference import Kind, Priority
from libs.common.contracts.tokens import Frame, decode_frame
from libs.common.redis_client import Script
from libs.common.settings import RedisSettings

# A frame holds at least one token; no context we serve is longer than this many tokens.
LONGEST_LOG_ENTRIES = 1_000_000

LOST_SECONDS = 10.0
"""A log that had frames and stays away this long will not come back: its worker would have written it again."""

CARD_OUTLIVES_DEADLINE_SECONDS = 30.0

Cursor = tuple[int, int]
"""(epoch, seq) of the last entry read; (0, 0) is before the first."""


def log_key(request_id: str) -> str:
    return f"omx:log:{request_id}"


def card_key(request_id: str) -> str:
    """``append.lua`` knows this name too: the card goes with the log."""
    return f"omx:card:{request_id}"


def task_key(request_id: str) -> str:
    """Where the body of a request too big for the broker waits."""
    return f"omx:task:{request_id}"


class Status(Enum):
    """What the log did with an append; ``append.lua`` defines each."""

    OK = b"ok"
    FENCED = b"fenced"
    ENDED = b"ended"
    GAP = b"gap"


@dataclass(frozen=True)
class Outcome:
    """What the log said, and the epoch and seq of its last entry now."""

    status: Status
    last_epoch: int
    last_seq: int


class Card(msgspec.Struct, array_like=True, frozen=True):
    """Whose request it is, for as long as it lives and its log is kept. Times are seconds since the epoch."""

    organization_id: str
    user_id: str
    key_id: str
    model: str
    kind: Kind
    priority: Priority
    accepted_at: float
    deadline: float


@dataclass(frozen=True)
class Append:
    """Encoded frames of one request, ``first_seq`` being the first one's."""

    request_id: str
    epoch: int
    first_seq: int
    final: bool
    frames: Sequence[bytes]


@dataclass(frozen=True)
class Entry:
    """One entry of the log: a frame, or (``frame`` None) the mark of a raised epoch."""

    epoch: int
    seq: int
    frame: Frame | None


_card_encoder = msgspec.msgpack.Encoder()
_card_decoder = msgspec.msgpack.Decoder(Card)


class TokenLogStore:
    """Raises ``redis.RedisError`` while Redis is away; every call may be repeated safely."""

    def __init__(self, client: "redis.Redis", settings: RedisSettings) -> None:
        self._client = client
        self.finished_ttl_seconds = settings.finished_log_ttl_seconds
        self._ttl_ms = settings.log_ttl_seconds * 1000
        self._finished_ttl_ms = settings.finished_log_ttl_seconds * 1000
        self._append = Script(Path(__file__).with_name("append.lua"))
        self._raise_epoch = Script(Path(__file__).with_name("raise_epoch.lua"))
        self._write_card = Script(Path(__file__).with_name("write_card.lua"))

    async def append(self, channel: str, appends: Sequence[Append]) -> list[Outcome]:
        """All of one gateway's requests in one call; one outcome for each."""
        arguments: list[Any] = [channel, self._ttl_ms, self._finished_ttl_ms, LONGEST_LOG_ENTRIES]
        for append in appends:
            arguments += (append.epoch, append.first_seq, int(append.final), len(append.frames), *append.frames)
        keys = [log_key(append.request_id) for append in appends]
        results = await self._append.run(self._client, keys, arguments)
        return [Outcome(Status(status), last_epoch, last_seq) for status, last_epoch, last_seq in results]

    async def raise_epoch(self, request_id: str, epoch: int) -> Outcome:
        """Fence every lower epoch. FENCED if this epoch or a higher one was there first, ENDED if it is over."""
        result = await self._raise_epoch.run(self._client, [log_key(request_id)], [epoch, self._ttl_ms, uuid4().hex])
        return Outcome(Status(result[0]), result[1], result[2])

    async def read(self, request_id: str, after: Cursor = (0, 0), most: int | None = None) -> list[Entry]:
        """``most``: at once; as many as that were found where there may be more."""
        start = f"({after[0]}-{after[1]}" if after != (0, 0) else "-"
        rows: Any = await self._client.xrange(log_key(request_id), min=start, count=most)
        return [_entry(entry_id, fields) for entry_id, fields in rows]

    async def last(self, request_id: str) -> Entry | None:
        rows: Any = await self._client.xrevrange(log_key(request_id), count=1)
        return _entry(*rows[0]) if rows else None

    async def exists(self, request_id: str) -> bool:
        return bool(await self._client.exists(log_key(request_id)))

    async def write_card(self, request_id: str, card: Card) -> None:
        seconds = max(0.0, card.deadline - time.time()) + CARD_OUTLIVES_DEADLINE_SECONDS
        keys = [card_key(request_id), log_key(request_id)]
        await self._write_card.run(self._client, keys, [_card_encoder.encode(card), int(seconds * 1000)])

    async def cards(self, request_ids: Sequence[str]) -> list[Card | None]:
        """One for each id; None for requests that are unknown, or over and forgotten."""
        if not request_ids:
            return []
        values: Any = await self._client.mget([card_key(request_id) for request_id in request_ids])
        return [_card_decoder.decode(value) if value is not None else None for value in values]


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    epoch, _, seq = entry_id.partition(b"-")
    data = fields.get(b"frame") or fields.get(b"end")
    return Entry(int(epoch), int(seq), decode_frame(data) if data is not None else None)
