"""Seals anew, under the newest key, what older keys have sealed: so that the old ones can be dropped."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import structlog
from psycopg import sql

from libs.common.database import EVERY_ORGANIZATION, Database, Transaction
from libs.common.errors import Unavailable
from libs.common.sealing import CannotOpenError, Place, Ring

log = structlog.get_logger(__name__)

BATCH: Final = 100
LOOK_AGAIN_SECONDS: Final = 600.0


@dataclass(frozen=True)
class SealedColumn:
    """``id_column``: unique; its text is the ``row`` of the values' ``Place``."""

    table: str
    column: str
    id_column: str


async def reseal(db: Database, ring: Ring, columns: Iterable[SealedColumn]) -> None:
    """Background loop of a service with sealed columns: again and again, for replicas with the old key may still write.

    Says at each start, and when that changes, whether a key of before is still needed.
    """
    known: dict[SealedColumn, int] = {}
    while True:
        for column in columns:
            try:
                left = await reseal_now(db, ring, column)
            except Unavailable as error:
                log.warning("sealed values could not be looked through; will try again", reason=error.message)
                continue
            if known.get(column) != left:
                known[column] = left
                _tell(column, left)
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def reseal_now(db: Database, ring: Ring, column: SealedColumn) -> int:
    """How many values could not be opened, and so are left as they are."""
    left, after = 0, ""
    while True:
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            rows = await _next(tx, ring, column, after)
            for row, sealed in rows:
                if sealed is None:
                    continue
                try:
                    await _replace(tx, column, row, sealed, _anew(ring, column, row, sealed))
                except CannotOpenError:
                    left += 1
        if not rows:
            return left
        after = rows[-1][0]


def _anew(ring: Ring, column: SealedColumn, row: str, sealed: bytes) -> bytes:
    place = Place(column.table, column.column, row)
    return ring.seal(ring.open(sealed, place), place)


def _tell(column: SealedColumn, left: int) -> None:
    where = f"{column.table}.{column.column}"
    if left:
        log.error("sealed values open with none of the keys; put the old one back", where=where, left=left)
    else:
        log.info("all is sealed with the newest key; older ones are not needed", where=where, left=0)


async def _next(tx: Transaction, ring: Ring, column: SealedColumn, after: str) -> list[tuple[str, bytes | None]]:
    """Some rows after this one, by id, with their values unless the newest key has sealed them.

    As many whatever they have: to look for old values in all of a large table takes longer than a statement may.
    """
    statement = sql.SQL(
        "select {id}::text, case when substring({column} from 1 for %s) <> %s then {column} end from {table}"
        " where {id}::text > %s order by {id}::text limit %s"
    ).format(**_names(column))
    rows = await tx.execute(statement, [len(ring.mark), ring.mark, after, BATCH])
    return [(row, None if sealed is None else bytes(sealed)) for row, sealed in await rows.fetchall()]


async def _replace(tx: Transaction, column: SealedColumn, row: str, before: bytes, anew: bytes) -> None:
    """Unless it has changed meanwhile."""
    statement = sql.SQL("update {table} set {column} = %s where {id}::text = %s and {column} = %s")
    await tx.execute(statement.format(**_names(column)), [anew, row, before])


def _names(column: SealedColumn) -> dict[str, sql.Identifier]:
    return {
        "table": sql.Identifier(column.table),
        "column": sql.Identifier(column.column),
        "id": sql.Identifier(column.id_column),
    }
