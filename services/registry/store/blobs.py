"""The SQL that tells needed blobs from others."""

from collections.abc import Sequence

from libs.common.database import Transaction

# Any number that no other advisory lock of the registry's schema has.
BLOBS_LOCK = 7_303_014_001


async def lock_while_referring(tx: Transaction) -> None:
    """Until the transaction ends no blob is removed, so those that are there may be referred to."""
    await tx.execute("select pg_advisory_xact_lock_shared(%s)", [BLOBS_LOCK])


async def lock_while_removing(tx: Transaction) -> None:
    """Until the transaction ends nobody begins to refer to a blob, on any replica."""
    await tx.execute("select pg_advisory_xact_lock(%s)", [BLOBS_LOCK])


async def unneeded(tx: Transaction, digests: Sequence[str]) -> list[str]:
    """Those of ``digests`` that no model and no version has."""
    rows = await tx.execute(
        """
        select digest from unnest(%s::text[]) as candidates (digest)
        where not exists (select from model_layers where model_layers.digest = candidates.digest)
          and not exists (select from model_versions where candidates.digest = any (layers))
        """,
        [list(digests)],
    )
    return [digest for (digest,) in await rows.fetchall()]


async def forget(tx: Transaction, digests: Sequence[str]) -> None:
    """Blobs that nobody needs."""
    await tx.execute("delete from blobs where digest = any (%s)", [list(digests)])
