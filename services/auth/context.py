"""What auth's handlers may use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from libs.common.batches import Batches
from libs.common.bus.base import Bus
from libs.common.contracts.worker import InferenceFinished
from libs.common.database import Database
from libs.common.lifecycle import Runtime
from libs.common.runtime_config import RuntimeConfig
from libs.common.sealing import Ring
from services.auth.audit.log import AuditLog, open_log
from services.auth.ledger import open_ledger
from services.auth.passwords import Passwords
from services.auth.settings import Settings
from services.auth.signing import Signer

EXPORTS_AT_ONCE: Final = 2


@dataclass(frozen=True)
class Context:
    config: RuntimeConfig[Settings]
    db: Database
    bus: Bus
    passwords: Passwords
    signer: Signer
    sealing: Ring
    audit: AuditLog
    ledger: Batches[InferenceFinished]
    used_keys: dict[UUID, float] = field(default_factory=dict)
    """Keys used since the database was last told, and when; seconds since the epoch."""

    exporting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(EXPORTS_AT_ONCE))
    """Held by who gathers all of one person: that is megabytes."""

    @property
    def settings(self) -> Settings:
        """As they are now: some are changed while we run."""
        return self.config.current


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    sealing = settings.sealing()
    yield Context(
        config=runtime.config,
        db=runtime.db,
        bus=runtime.bus,
        passwords=await Passwords.open(settings.bcrypt_rounds, settings.passwords_at_once),
        signer=await Signer.open(runtime.db, sealing, settings.signing_key_days),
        sealing=sealing,
        audit=await open_log(runtime.db, sealing),
        ledger=open_ledger(runtime.db),
    )
