"""What the registry's handlers and routes may use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp.abc import AbstractResolver

from libs.common.bus.base import Bus
from libs.common.database import Database
from libs.common.lifecycle import Runtime
from libs.common.tasks import Tasks
from services.registry.blobs import BlobStore
from services.registry.operations import Operations
from services.registry.settings import Settings
from services.registry.transfer.downloads import Downloads
from services.registry.transfer.remote import Remotes
from services.registry.virtual_models import VirtualModels

CONVERSIONS_AT_ONCE: Final = 2


@dataclass(frozen=True)
class Context:
    settings: Settings
    db: Database
    bus: Bus
    tasks: Tasks
    blobs: BlobStore
    remotes: Remotes
    downloads: Downloads
    operations: Operations
    virtual_models: VirtualModels = field(default_factory=VirtualModels)
    converting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONVERSIONS_AT_ONCE))
    """Held by who rewrites weights: each takes a processor, and memory."""


@asynccontextmanager
async def open_context(
    settings: Settings, runtime: Runtime, resolver: AbstractResolver | None = None
) -> AsyncIterator[Context]:
    """``resolver`` finds other registries, instead of the system's."""
    blobs = BlobStore(settings.data_dir)
    async with Remotes.open(settings, resolver) as remotes:
        yield Context(
            settings=settings,
            db=runtime.db,
            bus=runtime.bus,
            tasks=runtime.tasks,
            blobs=blobs,
            remotes=remotes,
            downloads=Downloads(blobs, settings),
            operations=Operations(runtime.bus, runtime.tasks),
        )
