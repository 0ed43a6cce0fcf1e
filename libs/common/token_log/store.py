"""The two scripts and the reading side of one Redis."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis.asyncio as redis
from redis.exceptions import NoScriptError

from libs.common.contracts.tokens import Frame, decode_frame
from libs.common.settings import RedisSettings

# A frame holds at least one token; no context we serve is longer than this many tokens.
LONGEST_LOG_ENTRIES = 1_000_000

Cursor = tuple[int, int]
"""(epoch, seq) of the last entry read; (0, 0) is before the first."""


def log_key(request_id: str) -> str:
    return f"omx:log:{request_id}"


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


class _Script:
    def __init__(self, name: str) -> None:
        self._text = Path(__file__).with_name(name).read_text()
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: "redis.Redis", keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        try:
            return await client.evalsha(self._sha, len(keys), *keys, *arguments)
        except NoScriptError:  # a new or restarted Redis
            return await client.eval(self._text, len(keys), *keys, *arguments)


class TokenLogStore:
    """Raises ``redis.RedisError`` while Redis is away; every call may be repeated safely."""

    def __init__(self, client: "redis.Redis", settings: RedisSettings) -> None:
        self._client = client
        self._ttl_ms = settings.log_ttl_seconds * 1000
        self._finished_ttl_ms = settings.finished_log_ttl_seconds * 1000
        self._append = _Script("append.lua")
        self._raise_epoch = _Script("raise_epoch.lua")

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

    async def read(self, request_id: str, after: Cursor = (0, 0)) -> list[Entry]:
        start = f"({after[0]}-{after[1]}" if after != (0, 0) else "-"
        rows: Any = await self._client.xrange(log_key(request_id), min=start)
        return [_entry(entry_id, fields) for entry_id, fields in rows]

    async def exists(self, request_id: str) -> bool:
        return bool(await self._client.exists(log_key(request_id)))


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    epoch, _, seq = entry_id.partition(b"-")
    data = fields.get(b"frame") or fields.get(b"end")
    return Entry(int(epoch), int(seq), decode_frame(data) if data is not None else None)
