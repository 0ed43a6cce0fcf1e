"""The SQL that tells needed blobs from others, and who may know of them."""

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


async def known(tx: Transaction, digests: Sequence[str]) -> set[str]:
    """Those of ``digests`` that models or versions which the organization sees have, or that it has brought."""
    rows = await tx.execute(
        """
        select digest from unnest(%s::text[]) as candidates (digest)
        where exists (select from brought_blobs where brought_blobs.digest = candidates.digest)
           or exists (select from model_layers where model_layers.digest = candidates.digest)
           or exists (select from model_versions where candidates.digest = any (layers))
        """,
        [list(digests)],
    )
    return {digest for (digest,) in await rows.fetchall()}


async def save_brought(tx: Transaction, organization: str, digest: str) -> None:
    await tx.execute(
        """
        insert into brought_blobs (organization_id, digest) values (%s, %s)
        on conflict (organization_id, digest) do update set at = now()
        """,
        [organization, digest],
    )


async def renew_brought(tx: Transaction, digest: str) -> None:
    await tx.execute("update brought_blobs set at = now() where digest = %s", [digest])


async def forget_brought(tx: Transaction, older_than_seconds: float) -> None:
    """Whoever has made no model of them by now must show the bytes again."""
    await tx.execute("delete from brought_blobs where at < now() - make_interval(secs => %s)", [older_than_seconds])


async def forget_all_brought(tx: Transaction, organization: str) -> None:
    await tx.execute("delete from brought_blobs where organization_id = %s", [organization])


async def brought_by_others(tx: Transaction, organization: str, digests: Sequence[str]) -> set[str]:
    """Those of ``digests`` that other organizations may be about to use."""
    rows = await tx.execute(
        "select digest from brought_blobs where digest = any (%s) and organization_id <> %s",
        [list(digests), organization],
    )
    return {digest for (digest,) in await rows.fetchall()}


async def unneeded(tx: Transaction, digests: Sequence[str]) -> list[str]:
    """Those of ``digests`` that no model and no version has, as far as the transaction sees: it must see all."""
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
