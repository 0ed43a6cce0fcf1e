"""The SQL of what was asked and answered, sealed."""

from libs.common.database import Transaction


async def insert_exchange(
    tx: Transaction, request_id: str, organization: str, user_id: str | None, sealed: bytes
) -> None:
    """The first one stands."""
    await tx.execute(
        """
        insert into stored_exchanges (request_id, organization_id, user_id, sealed) values (%s, %s, %s, %s)
        on conflict (request_id) do nothing
        """,
        [request_id, organization, user_id, sealed],
    )


async def get_exchange(tx: Transaction, request_id: str) -> bytes | None:
    """Of the organization that the transaction works for."""
    rows = await tx.execute("select sealed from stored_exchanges where request_id = %s", [request_id])
    row = await rows.fetchone()
    return bytes(row[0]) if row else None


async def delete_all(tx: Transaction) -> None:
    """Of the organization that the transaction works for."""
    await tx.execute("delete from stored_exchanges")


async def delete_older(tx: Transaction, days: int, most: int) -> int:
    """How many were deleted, at most ``most``."""
    rows = await tx.execute(
        """
        delete from stored_exchanges where request_id in (
            select request_id from stored_exchanges where stored_at < now() - make_interval(days => %s) limit %s
        )
        """,
        [days, most],
    )
    return rows.rowcount
