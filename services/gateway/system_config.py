"""Settings of the whole installation, changed while it runs. Every process has heard of a change within a second."""

from libs.common import outbox, paging
from libs.common.contracts.gateway import ConfigChanged, ConfigVersion, SystemConfig
from libs.common.contracts.paging import Page, PageRequest
from libs.common.database import Database
from libs.common.errors import PreconditionFailed
from services.gateway.store import system_config as store
from services.gateway.store.system_config import ConfigChange


async def in_force(db: Database) -> ConfigVersion:
    async with db.transaction() as tx:
        return await store.in_force(tx)


async def change(db: Database, config: SystemConfig, changed_by: str, expected: int | None) -> ConfigVersion:
    """The new version; the old one if nothing is different. Raises ``PreconditionFailed``."""
    async with db.transaction() as tx:
        before = await store.lock(tx)
        if expected not in (None, before.version):
            raise PreconditionFailed
        if config == before.config:
            return before
        now = ConfigVersion(version=before.version + 1, config=config)
        await store.replace(tx, before.config, now, changed_by)
        await outbox.stage(tx, ConfigChanged(now=now))
        return now


async def history(db: Database, request: PageRequest) -> Page[ConfigChange]:
    after = paging.decode(request.cursor, int)
    async with db.transaction() as tx:
        rows = await store.changes(tx, int(after[0]) if after else None, request.limit + 1)
    return paging.page(rows, request, lambda change: change, lambda change: (change.version,))
