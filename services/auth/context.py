"""What auth's handlers may use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from libs.common.bus.base import Bus
from libs.common.database import Database
from libs.common.lifecycle import Runtime
from services.auth.passwords import Passwords
from services.auth.settings import Settings
from services.auth.signing import Signer, open_signer


@dataclass(frozen=True)
class Context:
    settings: Settings
    db: Database
    bus: Bus
    passwords: Passwords
    signer: Signer
    used_keys: dict[UUID, float] = field(default_factory=dict)
    """Keys used since the database was last told, and when; seconds since the epoch."""


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    yield Context(
        settings=settings,
        db=runtime.db,
        bus=runtime.bus,
        passwords=await Passwords.open(settings.bcrypt_rounds),
        signer=await open_signer(runtime.db, settings.sealing_key(), settings.token_seconds),
    )
