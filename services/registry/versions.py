"""What a name pointed to before, and back to it. Clients of Ollama's API do not notice."""

from libs.common.contracts.registry import ModelVersion
from libs.common.errors import NotFound
from services.registry import catalog
from services.registry.context import Context
from services.registry.store import versions as store
from services.registry.store.models import StoredModel
from services.registry.store.versions import StoredVersion


async def list_versions(ctx: Context, name: str) -> tuple[ModelVersion, ...]:
    """The current one, then the newest. Raises ``ModelNotFound`` and ``InvalidModelName``."""
    model = await catalog.find_stored(ctx, name)
    async with ctx.db.transaction() as tx:
        return tuple(_told(model, version) for version in await store.list_versions(tx, model.id))


async def roll_back(ctx: Context, name: str, digest: str) -> ModelVersion:
    """What was current becomes a version in its turn; nothing changes if ``digest`` is current.

    Raises ``NotFound``, ``ModelNotFound``, ``InvalidModelName``, and ``Forbidden`` for one of another organization.
    """
    model = await catalog.find_stored(ctx, name)
    catalog.check_own(model)
    if digest != model.digest:
        async with ctx.db.transaction() as tx:
            content = await store.find_version(tx, model.id, digest)
        if content is None:
            raise NotFound(f"model '{name}' has no version {digest}")
        await catalog.save(ctx, model.name, content)
    versions = await list_versions(ctx, name)
    return next(version for version in versions if version.digest == digest)


def _told(model: StoredModel, version: StoredVersion) -> ModelVersion:
    return ModelVersion(
        name=model.name.display,
        digest=version.digest,
        size=version.size,
        created_at=version.created_at.timestamp(),
        current=version.current,
    )
