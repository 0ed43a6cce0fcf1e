"""Models that are asked for without waiting for them: on their way, then here, or failed with the reason."""

from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from libs.common import actor
from libs.common.contracts.gateway import OperationCancelled
from libs.common.contracts.registry import CreateModel, PullModel
from libs.common.contracts.registry.models import AddModel
from libs.common.errors import Conflict, RateLimited, ServiceError, Unavailable
from services.registry import names
from services.registry.context import Context
from services.registry.store import additions as store
from services.registry.store import models as model_store
from services.registry.store.additions import Addition

LONGEST_ERROR: Final = 1000
MOST_ON_THEIR_WAY: Final = 100
"""Of one organization: half of what this registry takes at once."""

FAILED_KEPT: Final = 100
"""Of one organization, the latest."""

AGAIN_SECONDS: Final = 10.0


async def begin(ctx: Context, wanted: AddModel) -> None:
    """The work goes on after this; ``ended`` takes its end.

    Raises ``InvalidModelName``, ``Conflict`` and ``RateLimited``.
    """
    who, name = actor.current(), names.parse(wanted.name)
    addition = Addition(
        organization_id=who.organization_id,
        name=name.display,
        operation_id=uuid4().hex,
        status="pulling",
        error="",
        created_by=who.user_id,
        tags=list(wanted.tags),
        description=wanted.description,
        created_at=datetime.now(UTC),
    )
    async with ctx.db.transaction() as tx:
        if not await store.begin(tx, addition):
            raise Conflict(f"model '{wanted.name}' is on its way already")
        if await store.count_on_their_way(tx) > MOST_ON_THEIR_WAY:
            message = f"limit reached: {MOST_ON_THEIR_WAY} models on their way at once; try again when one is here"
            raise RateLimited(message, retry_after=AGAIN_SECONDS)
        await store.forget_failed(tx, FAILED_KEPT)
    try:
        await ctx.bus.send(_command(addition.operation_id, wanted), message_id=addition.operation_id)
    except Unavailable:
        async with ctx.db.transaction() as tx:
            await store.take(tx, addition.operation_id)
        raise


def _command(operation_id: str, wanted: AddModel) -> PullModel | CreateModel:
    if not wanted.base:
        return PullModel(operation_id=operation_id, name=wanted.name)
    return CreateModel(
        operation_id=operation_id,
        name=wanted.name,
        base=wanted.base,
        system=wanted.system,
        template=wanted.template,
        parameters=wanted.parameters,
    )


async def ended(ctx: Context, operation_id: str, error: ServiceError | None) -> None:
    """Note how it ended, if somebody asked for it without waiting. Raises ``Unavailable``.

    Who gives it up forgets it, so nothing is noted of that.
    """
    if error is None:
        await _came(ctx, operation_id)
    else:
        async with ctx.db.transaction() as tx:
            await store.fail(tx, operation_id, error.message.replace("\0", "")[:LONGEST_ERROR])


async def _came(ctx: Context, operation_id: str) -> None:
    """What was said of the model when it was asked for is said of it now."""
    async with ctx.db.transaction() as tx:
        addition = await store.take(tx, operation_id)
        model = None if addition is None else await model_store.find_model(tx, names.parse(addition.name))
        if addition is not None and model is not None and model.own and (addition.tags or addition.description):
            await model_store.change_model(
                tx,
                model.id,
                addition.tags,
                addition.description,
                shared=model.shared,
                expected_version=None,
            )


async def give_up(ctx: Context, name: str) -> bool:
    """Or forget that it failed. False if it is neither. Raises ``InvalidModelName`` and ``Unavailable``."""
    async with ctx.db.transaction() as tx:
        operation_id = await store.take_by_name(tx, names.parse(name).display)
    if operation_id is not None:
        await ctx.bus.publish(OperationCancelled(operation_id=operation_id))
    return operation_id is not None
