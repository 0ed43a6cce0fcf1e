"""Models as the platform's API tells of them: with status, tags, owner; also those on their way."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from libs.common import actor, model_patterns, paging
from libs.common.contracts.inference import ModelDetails
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import OPERATING_ORGANIZATION
from libs.common.contracts.registry import ModelSummary
from libs.common.contracts.registry.models import ChangeModel, FindModels, Model
from libs.common.errors import InvalidRequest, PreconditionFailed
from services.registry import blobs, catalog, described, names
from services.registry.context import Context
from services.registry.store import additions as addition_store
from services.registry.store import models as store
from services.registry.store.additions import Addition
from services.registry.store.models import StoredModel


async def find(ctx: Context, query: FindModels) -> Page[Model]:
    """Raises ``InvalidRequest`` for a cursor that is none."""
    after = paging.decode(query.paging.cursor, float, str)
    async with ctx.db.transaction() as tx:
        additions = await addition_store.list_additions(tx)
        stored = await store.list_models(tx)  # after them: what has come meanwhile is here, with all that is said of it
    found = {summary.name.lower(): _served(summary) for summary in ctx.virtual_models.summaries()}
    found |= {model.name.display.lower(): _stored(model) for model in stored}
    found |= {addition.name.lower(): _added(addition, found.get(addition.name.lower())) for addition in additions}
    wanted = Filter(query)
    ordered = sorted((model for model in found.values() if wanted.takes(model)), key=_key, reverse=True)
    rest = [model for model in ordered if after is None or _key(model) < after]
    return paging.page(rest, query.paging, lambda model: model, _key)


def _key(model: Model) -> tuple[float, str]:
    return model.created_at, model.name


@dataclass(frozen=True)
class Filter:
    query: FindModels

    def takes(self, model: Model) -> bool:
        query, name = self.query, model.name.lower()
        return (
            model_patterns.match_all(query.patterns, name)
            and query.status in (None, model.status)
            and (query.name.lower() in name or fnmatchcase(name, query.name.lower()))
            and set(query.tags) <= set(model.tags)
            and query.created_by in ("", model.created_by)
        )


async def get(ctx: Context, name: str) -> Model:
    """Raises ``ModelNotFound`` and ``InvalidModelName``."""
    parsed = names.parse(name)
    async with ctx.db.transaction() as tx:
        addition = await addition_store.find_addition(tx, parsed.display)
        stored = await store.find_model(tx, parsed)  # after it, as above
    model = None if stored is None else _stored(stored)
    if addition is not None:
        return _added(addition, model)
    return model or _served(await catalog.find_virtual(ctx, name, ctx.virtual_models.summarize))


def _served(summary: ModelSummary) -> Model:
    """By a worker, without files of ours: it is there for all."""
    shared = actor.current().organization_id != OPERATING_ORGANIZATION
    return Model(**summary.model_dump(), own=not shared, shared=True, created_at=summary.modified_at)


async def change(ctx: Context, wanted: ChangeModel) -> Model:
    """Raises ``ModelNotFound``, ``InvalidModelName``, ``Forbidden``, ``PreconditionFailed``, ``InvalidRequest``."""
    model = await catalog.find_stored(ctx, wanted.name)
    catalog.check_own(model)
    if wanted.shared and model.organization_id != OPERATING_ORGANIZATION:
        raise InvalidRequest(f"only models of the organization '{OPERATING_ORGANIZATION}' can be shared")
    async with ctx.db.transaction() as tx:
        changed = await store.change_model(
            tx,
            model.id,
            wanted.tags,
            wanted.description,
            shared=wanted.shared,
            expected_version=wanted.expected_version,
        )
    if not changed:
        raise PreconditionFailed
    if wanted.shared != model.shared:
        await catalog.announce(ctx, model.name, model.organization_id, shared=True)
    return await get(ctx, wanted.name)


async def names_of_digest(ctx: Context, digest: str) -> tuple[str, ...]:
    """Raises ``InvalidRequest``."""
    async with ctx.db.transaction() as tx:
        return tuple(name.display for name in await store.names_of(tx, blobs.checked(digest)))


def _stored(model: StoredModel) -> Model:
    return Model(
        **described.summary(model).model_dump(),
        own=model.own,
        shared=model.shared,
        tags=tuple(model.tags),
        description=model.description,
        created_by=model.created_by if model.own else "",
        created_at=model.created_at.timestamp(),
        version=model.version,
    )


def _added(addition: Addition, model: Model | None) -> Model:
    """Of a model that is here already and is asked for anew, only how that goes."""
    if model is not None and model.own:
        return model.model_copy(
            update={"status": "pulling" if addition.status == "pulling" else "ready", "error": addition.error}
        )
    created_at = addition.created_at.timestamp()
    return Model(
        name=addition.name,
        digest="",
        size=0,
        modified_at=created_at,
        details=ModelDetails(),
        status=addition.status,
        error=addition.error,
        tags=tuple(addition.tags),
        description=addition.description,
        created_by=addition.created_by,
        created_at=created_at,
    )
