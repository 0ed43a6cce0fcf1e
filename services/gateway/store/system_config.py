"""The settings of the installation, and their changes."""

from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from pydantic import Field

from libs.common.contracts.gateway import ConfigVersion, SystemConfig
from libs.common.contracts.message import Value
from libs.common.database import Transaction


class ConfigChange(Value):
    version: int
    changed_at: float = Field(description="seconds since the epoch")
    changed_by: str = Field(description="user id")
    before: SystemConfig
    after: SystemConfig


async def in_force(tx: Transaction) -> ConfigVersion:
    rows = await tx.execute("select version, config from system_config")
    return _version(await rows.fetchone())


async def lock(tx: Transaction) -> ConfigVersion:
    """What is in force, which nobody else changes before this transaction ends."""
    rows = await tx.execute("select version, config from system_config for update")
    return _version(await rows.fetchone())


async def replace(tx: Transaction, before: SystemConfig, now: ConfigVersion, changed_by: str) -> None:
    after = _json(now.config)
    await tx.execute("update system_config set version = %s, config = %s", [now.version, after])
    await tx.execute(
        "insert into system_config_history (version, changed_by, before, after) values (%s, %s, %s, %s)",
        [now.version, changed_by, _json(before), after],
    )


async def changes(tx: Transaction, before_version: int | None, limit: int) -> list[ConfigChange]:
    """The newest first."""
    async with tx.cursor(row_factory=class_row(ConfigChange)) as cursor:
        await cursor.execute(
            """
            select version, extract(epoch from changed_at)::float8 as changed_at, changed_by, before, after
            from system_config_history
            where %(before)s::numeric is null or version < %(before)s order by version desc limit %(limit)s
            """,
            {"before": before_version, "limit": limit},
        )
        return await cursor.fetchall()


def _version(row: tuple[int, object] | None) -> ConfigVersion:
    assert row is not None, "the migration put it there"
    return ConfigVersion(version=row[0], config=SystemConfig.model_validate(row[1]))


def _json(config: SystemConfig) -> Jsonb:
    return Jsonb(config.model_dump(mode="json", exclude_none=True))
