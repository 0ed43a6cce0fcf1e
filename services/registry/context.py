"""What the registry's handlers and routes may use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from libs.common.bus.base import Bus
from libs.common.database import Database
from libs.common.lifecycle import Runtime
from services.registry.blobs import BlobStore
from services.registry.settings import Settings
from services.registry.virtual_models import VirtualModels


@dataclass(frozen=True)
class Context:
    settings: Settings
    db: Database
    bus: Bus
    blobs: BlobStore
    virtual_models: VirtualModels = field(default_factory=VirtualModels)


@asynccontextmanager
async def open_context(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    yield Context(settings=settings, db=runtime.db, bus=runtime.bus, blobs=BlobStore(settings.data_dir))
