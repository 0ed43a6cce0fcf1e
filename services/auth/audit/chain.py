"""The chain: each row's hash is keyed, and covers all of the row's columns and the hash of the row before."""

import hashlib
import hmac
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from services.auth.store.audit import Archive, Entry, Head

Signed = TypeVar("Signed", Head, Archive)

START: Final = bytes(32)
"""What the first row follows."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Chain:
    """HMAC-SHA256 under a key that the database holds only sealed: SQL alone makes no row that fits."""

    key: bytes = field(repr=False)

    def linked(self, entry: Entry) -> Entry:
        return replace(entry, hash=self.hash_of(entry))

    def hash_of(self, entry: Entry) -> bytes:
        columns = {name: _canonical(value) for name, value in vars(entry).items() if name != "hash"}
        return self._mac("row", columns)

    def fits(self, entry: Entry) -> bool:
        return hmac.compare_digest(entry.hash, self.hash_of(entry))

    def signed(self, end: Signed) -> Signed:
        return replace(end, signature=self._signature(end))

    def is_ours(self, end: Head | Archive) -> bool:
        return hmac.compare_digest(end.signature, self._signature(end))

    def _signature(self, end: Head | Archive) -> bytes:
        columns = {name: _canonical(value) for name, value in vars(end).items() if name != "signature"}
        return self._mac(type(end).__name__, columns)

    def _mac(self, what: str, content: object) -> bytes:
        text = json.dumps([what, content], sort_keys=True, separators=(",", ":"))
        return hmac.digest(self.key, text.encode(), hashlib.sha256)


def _canonical(value: object) -> object:
    if isinstance(value, datetime):
        return microseconds(value)
    return value.hex() if isinstance(value, bytes) else value


def microseconds(moment: datetime) -> int:
    """Since the epoch: exactly what Postgres stores."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def moment(seconds: float) -> datetime:
    return EPOCH + timedelta(microseconds=round(seconds * 1e6))
