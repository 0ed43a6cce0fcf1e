"""What was said before: the chain of responses that ``previous_response_id`` begins at, and items by their ids."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final

import orjson

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.permissions import Permission
from libs.common.errors import InvalidRequest, NotFound, PreviousResponseNotFound
from services.gateway.api.openai.responses.items import Item
from services.gateway.api.openai.responses.story import PREFIX
from services.gateway.context import Context
from services.gateway.permissions import whose
from services.gateway.responses import keeping
from services.gateway.responses.memory import Turn
from services.gateway.store import responses as store
from services.gateway.store.responses import StoredResponse

MOST_TURNS: Final = 500
MOST_BYTES: Final = 64 * 1024 * 1024
"""Of a whole conversation, sealed."""

MOST_REFERENCES: Final = 100
"""In one request."""

_ITEM_ID: Final = re.compile(r"[a-z]{1,4}_(?P<response>[0-9a-f]{32})_i?[0-9]{1,6}", re.ASCII)

_HINT: Final = '; it may have expired or been deleted, or was made without "store": true'


async def earlier_items(ctx: Context, caller: Identity, previous: str) -> list[Item]:
    """The oldest first. Raises ``PreviousResponseNotFound``, and ``InvalidRequest`` if it is too long."""
    turns: list[Turn] = []
    while previous:
        turn = _remembered(ctx, caller, previous)
        found = [turn] if turn is not None else await _read(ctx, caller, previous)
        turns += found
        previous = turns[-1].previous
        if len(turns) > MOST_TURNS or sum(turn.size for turn in turns) > MOST_BYTES:
            raise InvalidRequest(
                f"the conversation has more than {MOST_TURNS} responses or {MOST_BYTES} bytes; begin a new one",
                param="previous_response_id",
            )
    return [item for turn in reversed(turns) for item in turn.items]


def _remembered(ctx: Context, caller: Identity, response_id: str) -> Turn | None:
    turn = ctx.turns.get(response_id)
    if turn is None or turn.organization_id != caller.organization_id:
        return None
    return turn if whose(caller, Permission.REQUEST_READ) in (None, turn.user_id) else None


async def _read(ctx: Context, caller: Identity, response_id: str) -> list[Turn]:
    """From the database: it and what came before, or some of that. They are remembered."""
    if "\0" in response_id:
        raise _not_found(response_id)
    async with ctx.db.transaction(caller.organization_id) as tx:
        rows = await store.chain(tx, response_id, whose(caller, Permission.REQUEST_READ), MOST_TURNS, MOST_BYTES)
    turns: list[Turn] = []
    expected: str | None = response_id
    for row in rows:
        if row.id != expected:
            break
        if row.status not in ("completed", "incomplete"):
            raise InvalidRequest(
                f"the response '{row.id}' cannot be gone on from: it is {row.status}", param="previous_response_id"
            )
        turn = await asyncio.to_thread(_turn, ctx, row)
        ctx.turns.put(row.id, turn)
        turns.append(turn)
        expected = row.previous_id
    if not turns:
        raise _not_found(response_id)
    return turns


def _turn(ctx: Context, row: StoredResponse) -> Turn:
    """It takes its time. Raises ``NotFound``."""
    size = len(row.sealed_request) + len(row.sealed_response or b"")
    items = keeping.open_row(ctx, row).items
    return Turn(row.organization_id, row.user_id, row.previous_id or "", items, size)


def _not_found(response_id: str) -> PreviousResponseNotFound:
    return PreviousResponseNotFound(
        f"Previous response with id '{response_id[:100]}' not found{_HINT}.", param="previous_response_id"
    )


async def with_references(ctx: Context, caller: Identity, items: Sequence[Any]) -> list[Any]:
    """With the items that others only name by their ids. Raises ``InvalidRequest``."""
    named = {number: str(item.get("id")) for number, item in enumerate(items) if _is_reference(item)}
    if len(named) > MOST_REFERENCES:
        raise InvalidRequest(f"input must not have more than {MOST_REFERENCES} references to items", param="input")
    resolved, size, most = list(items), 0, ctx.settings.max_body_bytes
    for number, item_id in named.items():
        resolved[number] = await _item(ctx, caller, item_id, f"input[{number}]")
        size += len(orjson.dumps(resolved[number]))
        if size > most:
            raise InvalidRequest(f"the items that input refers to have more than {most} bytes", param="input")
    return resolved


def _is_reference(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "item_reference"


async def _item(ctx: Context, caller: Identity, item_id: str, where: str) -> Item:
    if match := _ITEM_ID.fullmatch(item_id):
        try:
            opened = await keeping.find(ctx, caller, PREFIX + match["response"])
        except NotFound:
            opened = None
        for item in [*keeping.input_items(opened), *opened.response["output"]] if opened else ():
            if item["id"] == item_id:
                return dict(item)
    raise InvalidRequest(f"{where}: there is no item '{item_id[:100]}' in a stored response", param=where)
