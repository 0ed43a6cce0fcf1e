"""On whose behalf this task works; every message carries it, so that whoever changes something knows who asked for it.

The gateway says it once, where a request enters. ``Database.transaction`` tells it to Postgres, where row-level
security and the audit triggers read it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import msgspec

HEADER: Final = "x-actor"


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """All empty: nobody has been recognised yet, or the system itself."""

    organization_id: str = ""
    user_id: str = ""
    key_id: str = ""
    session_id: str = ""
    ip: str = ""
    user_agent: str = ""
    request_id: str = ""


SYSTEM: Final = Actor()

_current: ContextVar[Actor] = ContextVar("actor", default=SYSTEM)
_decoder = msgspec.json.Decoder(Actor)


def current() -> Actor:
    return _current.get()


def become(actor: Actor) -> None:
    """From here on, in this task and those it starts."""
    _current.set(actor)


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """As ``become``, for a while."""
    before = _current.set(actor)
    try:
        yield
    finally:
        _current.reset(before)


def encode(actor: Actor) -> str:
    return msgspec.json.encode(actor).decode()


def decode(text: str | None) -> Actor:
    """The system for no text, and for one that a stranger wrote."""
    if not text:
        return SYSTEM
    try:
        return _decoder.decode(text)
    except msgspec.MsgspecError:
        return SYSTEM
