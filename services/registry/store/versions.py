"""The SQL of what names pointed to before."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from libs.common.database import Transaction
from services.registry.store.models import Content, content_of


@dataclass(frozen=True)
class StoredVersion:
    digest: str
    size: int
    created_at: datetime
    current: bool


async def keep_current(tx: Transaction, model_id: int, most: int) -> None:
    """As a version, before the model points to something else; of more than ``most`` the oldest are forgotten."""
    await tx.execute(
        """
        insert into model_versions (model_id, digest, manifest, weights, size, facts, contents, layers, created_at)
        select id, digest, manifest, weights, size, facts, contents,
               array(select model_layers.digest from model_layers where model_id = models.id), modified_at
        from models where id = %s
        on conflict (model_id, digest) do update set created_at = excluded.created_at
        """,
        [model_id],
    )
    await tx.execute(
        """
        delete from model_versions where model_id = %(model_id)s and digest not in (
            select digest from model_versions where model_id = %(model_id)s order by created_at desc limit %(most)s)
        """,
        {"model_id": model_id, "most": most},
    )


async def drop_version(tx: Transaction, model_id: int, digest: str) -> None:
    """Because it is the current one now. Nothing happens if there is none."""
    await tx.execute("delete from model_versions where model_id = %s and digest = %s", [model_id, digest])


async def list_versions(tx: Transaction, model_id: int) -> list[StoredVersion]:
    """With the current one, which is the newest: what is current again counts from then."""
    async with tx.cursor(row_factory=class_row(StoredVersion)) as cursor:
        await cursor.execute(
            """
            select digest, size, modified_at as created_at, true as current from models where id = %(id)s
            union all
            select digest, size, created_at, false from model_versions where model_id = %(id)s
            order by current desc, created_at desc
            """,
            {"id": model_id},
        )
        return await cursor.fetchall()


async def find_version(tx: Transaction, model_id: int, digest: str) -> Content | None:
    """An earlier one."""
    rows = await tx.execute(
        """
        select manifest, weights, facts::text, contents::text from model_versions
        where model_id = %s and digest = %s
        """,
        [model_id, digest],
    )
    row = await rows.fetchone()
    return content_of(*row) if row else None


async def list_layers(tx: Transaction, model_id: int) -> list[str]:
    """The digests of all blobs that the model and its versions have."""
    rows = await tx.execute(
        """
        select digest from model_layers where model_id = %(id)s
        union select unnest(layers) from model_versions where model_id = %(id)s
        """,
        {"id": model_id},
    )
    return [digest for (digest,) in await rows.fetchall()]
