"""Batches as their owners see them: asked for, looked at, cancelled; and forgotten with them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from uuid import uuid4

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.gateway import UserFiles
from libs.common.contracts.permissions import Permission
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import InvalidRequest, NotFound, RateLimited
from services.gateway.batches import files
from services.gateway.context import Context
from services.gateway.permissions import whose
from services.gateway.store import batches as batch_store
from services.gateway.store import files as file_store
from services.gateway.store import responses as response_store
from services.gateway.store.batches import Batch

ENDPOINTS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/api/chat",
    "/api/generate",
    "/api/embed",
)
WINDOWS: Final = {"24h": 86_400.0}
PIECES_AT_ONCE: Final = 500
LINES_AT_ONCE: Final = 1000
RESPONSES_AT_ONCE: Final = 100
MOST_OPEN: Final = 20
"""Batches of one organization that have not ended."""


async def create(
    ctx: Context, caller: Identity, *, input_file: str, endpoint: str, window: str, metadata: Mapping[str, str]
) -> Batch:
    """Raises ``InvalidRequest``, ``RateLimited``, ``StorageFull``, and ``NotFound`` for a file that is not theirs."""
    if endpoint not in ENDPOINTS:
        raise InvalidRequest(f"'endpoint' must be one of {', '.join(ENDPOINTS)}")
    if window not in WINDOWS:
        raise InvalidRequest(f"'completion_window' must be one of {', '.join(WINDOWS)}")
    file = await files.find(ctx, caller, input_file)
    if file.purpose != "batch":
        raise InvalidRequest("the input file must have been uploaded with the purpose 'batch'")
    async with ctx.db.transaction(caller.organization_id) as tx:
        if await batch_store.open_count(tx, caller.organization_id) >= MOST_OPEN:
            raise RateLimited(f"your organization has {MOST_OPEN} batches that have not ended", retry_after=60)
        await files.room(ctx, tx)  # for its output, as far as one can know
        return await batch_store.insert(
            tx,
            batch_id=f"batch_{uuid4().hex}",
            organization=caller.organization_id,
            user_id=caller.user_id,
            key_id=caller.key_id,
            endpoint=endpoint,
            input_file=file.id,
            window=window,
            seconds=WINDOWS[window],
            metadata=metadata,
        )


async def find(ctx: Context, caller: Identity, batch_id: str) -> Batch:
    """Raises ``NotFound``, also for those of others unless the caller may read others' requests."""
    async with ctx.db.transaction(caller.organization_id) as tx:
        batch = await batch_store.get(tx, batch_id, whose(caller, Permission.REQUEST_READ))
    if batch is None:
        raise NotFound(f"No such Batch object: {batch_id}")
    return batch


async def listed(ctx: Context, caller: Identity, after: str | None, limit: int) -> tuple[list[Batch], bool]:
    """The newest first; and whether there are more."""
    async with ctx.db.transaction(caller.organization_id) as tx:
        found = await batch_store.some(tx, whose(caller, Permission.REQUEST_READ), after, limit + 1)
    return found[:limit], len(found) > limit


async def cancel(ctx: Context, caller: Identity, batch_id: str) -> Batch:
    """What is done of it is handed out. One that has ended stays as it is.

    Raises ``NotFound``, also for those of others unless the caller may manage others' requests.
    """
    owner = whose(caller, Permission.REQUEST_MANAGE)
    async with ctx.db.transaction(caller.organization_id) as tx:
        await batch_store.cancel(tx, batch_id, owner)
        batch = await batch_store.get(tx, batch_id, owner)
    if batch is None:
        raise NotFound(f"No such Batch object: {batch_id}")
    return batch


async def export(ctx: Context, user_id: str, organization: str | None) -> UserFiles:
    async with ctx.db.transaction(organization or EVERY_ORGANIZATION) as tx:
        return UserFiles(
            files=await file_store.export(tx, user_id),
            batches=await batch_store.export(tx, user_id),
            responses=await response_store.export(tx, user_id),
        )


async def forget_user(ctx: Context, user_id: str) -> None:
    """With files, lines and stored responses; what runs of them is stopped by whoever runs it."""
    await _forget(ctx, EVERY_ORGANIZATION, user_id)


async def forget_organization(ctx: Context, organization: str) -> None:
    await _forget(ctx, organization, None)


async def _forget(ctx: Context, organization: str, user_id: str | None) -> None:
    """Bit by bit: all of much takes longer than a statement may."""
    async with ctx.db.transaction(organization) as tx:
        await batch_store.stop(tx, user_id)
    await _until_none(ctx, organization, lambda tx: batch_store.empty(tx, user_id, LINES_AT_ONCE))
    async with ctx.db.transaction(organization) as tx:
        await batch_store.delete_all(tx, user_id)
    await _until_none(ctx, organization, lambda tx: response_store.delete_some(tx, user_id, RESPONSES_AT_ONCE))
    await _until_none(ctx, organization, lambda tx: file_store.empty(tx, user_id, PIECES_AT_ONCE))
    async with ctx.db.transaction(organization) as tx:
        await file_store.delete_all(tx, user_id)


async def _until_none(ctx: Context, organization: str, some: Callable[[Transaction], Awaitable[int]]) -> None:
    deleted = 1
    while deleted:
        async with ctx.db.transaction(organization) as tx:
            deleted = await some(tx)
