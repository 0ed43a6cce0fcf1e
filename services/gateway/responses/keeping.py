"""Responses in the database: what was asked is sealed as it came, and what was answered as it was shown."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import orjson
import structlog

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.permissions import Permission
from libs.common.contracts.tokens import Frame, StreamError
from libs.common.errors import InvalidRequest, NotFound, Unauthenticated, Unavailable
from libs.common.sealing import CannotOpenError, Place
from services.gateway.api.caller import ANONYMOUS
from services.gateway.api.openai.responses.items import Item, read_input
from services.gateway.api.openai.responses.request import Asked, read
from services.gateway.api.openai.responses.shown import Reply, Status
from services.gateway.api.openai.responses.story import PREFIX
from services.gateway.context import Context
from services.gateway.permissions import whose
from services.gateway.responses.memory import Turn
from services.gateway.store import responses as store
from services.gateway.store.responses import StoredResponse

log = structlog.get_logger(__name__)

KEEP_SECONDS: Final = 5.0
"""An answer does not wait longer for the database."""


class Told(msgspec.Struct, array_like=True, frozen=True):
    """What the events of a streamed response were made of."""

    frames: list[Frame]
    error: StreamError | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Told)


def place_of(column: str, response_id: str) -> Place:
    return Place("responses", column, response_id)


def is_kept(ctx: Context, caller: Identity, asked: Asked) -> bool:
    """Raises ``InvalidRequest`` and ``Unauthenticated`` for who insists and cannot have it."""
    days, is_known = ctx.settings.response_days, caller.user_id != ANONYMOUS
    if asked.store is None and not asked.background:
        return bool(days) and is_known and caller.stores_prompts
    if asked.store is False:
        return False
    if not days:
        name = "background" if asked.background else "store"
        raise InvalidRequest(f"'{name}': this server keeps no responses", param=name)
    if not is_known:
        raise Unauthenticated("to keep a response needs an API key")
    return True


@dataclass(frozen=True)
class Opened:
    """A stored response and what was asked for."""

    row: StoredResponse
    body: dict[str, Any]
    response: dict[str, Any]
    """As it is shown now."""

    @property
    def reply(self) -> Reply:
        return reply_of(self.row, self.body)

    @property
    def items(self) -> list[dict[str, Any]]:
        """What was asked, and what was answered."""
        return [*read_input(self.body["input"]), *self.response["output"]]


def reply_of(row: StoredResponse, body: dict[str, Any]) -> Reply:
    return Reply(read(body), row.id, int(row.created_at), kept=True)


def new_row(
    caller: Identity, reply: Reply, status: Status, sealed: Mapping[str, bytes], deadline_seconds: float = 0.0
) -> StoredResponse:
    """``sealed``: columns."""
    return StoredResponse(
        id=reply.id,
        organization_id=caller.organization_id,
        user_id=caller.user_id,
        key_id=caller.key_id,
        previous_id=reply.asked.previous or None,
        background=reply.asked.background,
        streams=reply.asked.stream,
        status=status,
        sealed_request=sealed["sealed_request"],
        sealed_response=sealed.get("sealed_response"),
        created_at=reply.created_at,
        deadline_at=time.time() + deadline_seconds,
        tries=0,
        losses=0,
    )


async def keep(ctx: Context, caller: Identity, reply: Reply, body: dict[str, Any], response: dict[str, Any]) -> bool:
    """After its answer, before its end is told: whoever has seen that finds it, through any gateway.

    False if the database is away: the answer is given all the same, and is gone then.
    """
    sealed = await asyncio.to_thread(seal, ctx, reply.id, sealed_request=body, sealed_response=response)
    row = new_row(caller, reply, response["status"], sealed)
    try:
        async with asyncio.timeout(KEEP_SECONDS), ctx.db.transaction(caller.organization_id) as tx:
            await store.insert(tx, row, ctx.settings.response_days)
    except (Unavailable, TimeoutError) as error:
        log.warning("a response could not be kept", response=reply.id, reason=str(error))
        return False
    items = [*reply.asked.input, *response["output"]]
    size = len(row.sealed_request) + len(row.sealed_response or b"")
    turn = Turn(caller.organization_id, caller.user_id, reply.asked.previous, items, size)
    ctx.turns.put(reply.id, turn)
    return True


def seal(ctx: Context, response_id: str, **values: Any) -> dict[str, bytes]:
    """JSON by column."""
    return {
        column: ctx.sealing.seal(orjson.dumps(value), place_of(column, response_id)) for column, value in values.items()
    }


def seal_told(ctx: Context, response_id: str, told: Told) -> bytes:
    return ctx.sealing.seal(_encoder.encode(told), place_of("sealed_frames", response_id))


async def find(
    ctx: Context, caller: Identity, response_id: str, permission: Permission = Permission.REQUEST_READ
) -> Opened:
    """``permission``: with which it may be somebody else's. Raises ``NotFound``."""
    async with ctx.db.transaction(caller.organization_id) as tx:
        row = await store.get(tx, response_id, whose(caller, permission))
    if row is None:
        raise NotFound(f"Response with id '{response_id}' not found.")
    return await asyncio.to_thread(open_row, ctx, row)


def open_row(ctx: Context, row: StoredResponse) -> Opened:
    """It takes its time. Raises ``NotFound``."""
    try:
        body = orjson.loads(ctx.sealing.open(row.sealed_request, place_of("sealed_request", row.id)))
        if row.sealed_response is None:
            return Opened(row, body, reply_of(row, body).shown(_status(row), []))
        shown = orjson.loads(ctx.sealing.open(row.sealed_response, place_of("sealed_response", row.id)))
    except CannotOpenError:
        log.error("a response was sealed with a key that is gone", response=row.id)
        raise NotFound("the response was sealed with a key that is gone") from None
    return Opened(row, body, shown)


def _status(row: StoredResponse) -> Status:
    """Of one that has no answer."""
    return "queued" if row.status == "queued" else "in_progress" if row.status == "in_progress" else "cancelled"


async def told(ctx: Context, row: StoredResponse) -> Told | None:
    """None if it was not to be streamed, or ended without an answer."""
    async with ctx.db.transaction(row.organization_id) as tx:
        sealed = await store.frames(tx, row.id)
    if sealed is None:
        return None
    try:
        return await asyncio.to_thread(_open_told, ctx, row.id, sealed)
    except CannotOpenError:
        raise NotFound("the response was sealed with a key that is gone") from None


def _open_told(ctx: Context, response_id: str, sealed: bytes) -> Told:
    return _decoder.decode(ctx.sealing.open(sealed, place_of("sealed_frames", response_id)))


async def delete(ctx: Context, caller: Identity, response_id: str) -> None:
    """What runs of it is stopped by whoever runs it. Raises ``NotFound``."""
    ctx.turns.forget(response_id)
    async with ctx.db.transaction(caller.organization_id) as tx:
        if not await store.delete(tx, response_id, whose(caller, Permission.REQUEST_MANAGE)):
            raise NotFound(f"Response with id '{response_id}' not found.")


ID_PREFIXES: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}


def input_items(opened: Opened) -> list[Item]:
    """With ids, by which later requests may name them."""
    own = opened.row.id.removeprefix(PREFIX)
    return [_listed(item, f"{own}_i{number}") for number, item in enumerate(read_input(opened.body["input"]))]


def _listed(item: Item, name: str) -> Item:
    kind = item.get("type") or "message"
    listed = {"status": "completed", **item, "type": kind}
    listed["id"] = item.get("id") or f"{ID_PREFIXES.get(kind, 'item')}_{name}"
    if isinstance(content := item.get("content"), str):
        text = "output_text" if item.get("role") == "assistant" else "input_text"
        listed["content"] = [{"type": text, "text": content}]
    return listed
