"""An entry as a line of JSON: times in seconds since the epoch, hashes in hex."""

import json
from datetime import datetime

from services.auth.audit.chain import microseconds, moment
from services.auth.store.audit import Entry


def line(entry: Entry) -> str:
    return dumped(shown(entry)) + "\n"


def shown(entry: Entry) -> dict[str, object]:
    return {name: _shown(name, value) for name, value in vars(entry).items()}


def parse(line: str) -> Entry:
    """What ``line`` wrote. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
    columns = json.loads(line)
    for name in ("at", "recorded_at"):
        columns[name] = moment(columns[name])
    for name in ("previous", "hash"):
        columns[name] = bytes.fromhex(columns[name])
    for name in ("before", "after"):
        columns[name] = None if columns[name] is None else dumped(columns[name])
    return Entry(**columns)


def dumped(value: object) -> str:
    """As it is stored."""
    return json.dumps(value, separators=(",", ":"))


def _shown(name: str, value: object) -> object:
    if isinstance(value, datetime):
        return microseconds(value) / 1e6
    if isinstance(value, bytes):
        return value.hex()
    return json.loads(str(value)) if name in {"before", "after"} and value is not None else value
