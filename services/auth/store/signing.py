"""The SQL of signing keys."""

from dataclasses import dataclass

from psycopg.rows import class_row
from psycopg.types.json import Json

from libs.common.database import Transaction
from libs.common.sealing import Place


@dataclass(frozen=True)
class SigningKey:
    id: str
    sealed_private_key: bytes
    public_jwk: dict[str, str]


@dataclass(frozen=True)
class PublishedKey(SigningKey):
    """``age_seconds``: since when it is published, by the database's clock, which all replicas share."""

    age_seconds: float


def place_of(key_id: str) -> Place:
    return Place("signing_keys", "sealed_private_key", key_id)


async def signing_keys(tx: Transaction) -> list[PublishedKey]:
    """Newest first."""
    async with tx.cursor(row_factory=class_row(PublishedKey)) as cursor:
        await cursor.execute(
            """
            select id, sealed_private_key, public_jwk, extract(epoch from now() - created_at)::float8 as age_seconds
            from signing_keys order by created_at desc, id
            """
        )
        return await cursor.fetchall()


async def insert_signing_key(tx: Transaction, key: SigningKey, oldest_seconds: float) -> bool:
    """False if there is one that is younger than ``oldest_seconds``: another replica was quicker."""
    await tx.execute("lock table signing_keys in share row exclusive mode")
    rows = await tx.execute(
        """
        insert into signing_keys (id, sealed_private_key, public_jwk) select %s, %s, %s
        where not exists (select from signing_keys where created_at > now() - make_interval(secs => %s))
        """,
        [key.id, key.sealed_private_key, Json(key.public_jwk), oldest_seconds],
    )
    return rows.rowcount == 1


async def delete_signing_keys(tx: Transaction, key_ids: list[str]) -> None:
    await tx.execute("delete from signing_keys where id = any(%s)", [key_ids])
