"""What the registry protocol asks of the tables: a repository is a model name without its tag."""

from libs.common.database import Transaction
from services.registry.names import ModelName


async def manifest(tx: Transaction, repository: ModelName, digest: str) -> str | None:
    """The manifest of this digest (64 hex digits), if a tag of the repository points to it, or did and it is kept."""
    rows = await tx.execute(
        """
        with tags as (select id, digest, manifest from models
                      where (lower(host), lower(namespace), lower(model)) = (lower(%s), lower(%s), lower(%s)))
        select manifest from tags where digest = %s
        union all
        select kept.manifest from model_versions kept join tags on tags.id = kept.model_id where kept.digest = %s
        limit 1
        """,
        [repository.host, repository.namespace, repository.model, digest, digest],
    )
    found = await rows.fetchone()
    return None if found is None else str(found[0])


async def tags(tx: Transaction, repository: ModelName, *, after: str, limit: int) -> list[str]:
    """In the order of their bytes."""
    rows = await tx.execute(
        """
        select distinct tag collate "C" as tag from models
        where (lower(host), lower(namespace), lower(model)) = (lower(%s), lower(%s), lower(%s)) and tag collate "C" > %s
        order by tag limit %s
        """,
        [repository.host, repository.namespace, repository.model, after, limit],
    )
    return [str(tag) for (tag,) in await rows.fetchall()]
