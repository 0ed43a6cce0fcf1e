"""The SQL of one person's models."""

from psycopg.rows import dict_row

from libs.common.contracts.exports import MOST_ROWS, ExportedRows, exported
from libs.common.database import Transaction


async def models_of(tx: Transaction, user_id: str) -> ExportedRows:
    """As far as the transaction sees them."""
    async with tx.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            """
            select organization_id, host, namespace, model, tag, digest, size, description, tags,
                   extract(epoch from created_at)::float8 as created_at
            from models where created_by = %s order by models.created_at desc, id limit %s
            """,
            [user_id, MOST_ROWS + 1],
        )
        return exported(await cursor.fetchall())


async def forget_user(tx: Transaction, user_id: str) -> None:
    """The models stay."""
    await tx.execute("update models set created_by = '' where created_by = %s", [user_id])
    await tx.execute("update model_additions set created_by = '' where created_by = %s", [user_id])
