"""A batch begins: its input is checked as a whole, and its lines are laid out to be run."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from libs.common.errors import NotFound, TooLarge
from libs.common.sealing import Place
from services.gateway.batches import files
from services.gateway.batches.validation import LONGEST_LINE, Validation
from services.gateway.context import Context
from services.gateway.store import batch_lines as line_store
from services.gateway.store import batches as batch_store
from services.gateway.store import files as file_store
from services.gateway.store.batches import Batch

CLAIM_SECONDS: Final = 60.0


class NotOursError(Exception):
    """The batch is not what it was when it was claimed: cancelled, expired, or in other hands."""


def place_of(column: str, line_id: str) -> Place:
    return Place("batch_lines", column, line_id)


async def read_input(ctx: Context, batch: Batch) -> None:
    """May be done again from the beginning, and by two at once."""
    checked = Validation(batch.endpoint)
    try:
        async with aclosing(await _content(ctx, batch)) as pieces:
            async for piece in pieces:
                await _keep(ctx, batch, await asyncio.to_thread(checked.read, piece))
                if checked.hopeless:
                    break
            else:
                await _keep(ctx, batch, await asyncio.to_thread(checked.read_last))
    except NotFound as error:
        checked.note("invalid_input_file", error.message, param="input_file_id")
    except TooLarge:
        checked.note("line_too_long", f"a line is longer than {LONGEST_LINE} bytes")
    except NotOursError:
        return
    if not checked.count and not checked.errors:
        checked.note("empty_file", "the input file has no requests", param="input_file_id")
    async with ctx.db.transaction(batch.organization_id) as tx:
        if checked.errors:
            await batch_store.fail(tx, batch.id, checked.errors)
        else:
            await batch_store.begin(tx, batch.id, checked.count)


async def _content(ctx: Context, batch: Batch) -> AsyncGenerator[bytes]:
    """Raises ``NotFound``."""
    async with ctx.db.transaction(batch.organization_id) as tx:
        file = await file_store.get(tx, batch.input_file_id, None)
    if file is None:
        raise NotFound("the input file was deleted")
    return files.content(ctx, file)


async def _keep(ctx: Context, batch: Batch, lines: list[tuple[int, bytes]]) -> None:
    """Raises ``NotOursError``."""
    sealed = await asyncio.to_thread(_sealed, ctx, batch, lines)
    async with ctx.db.transaction(batch.organization_id) as tx:
        if not await batch_store.keep_claim(tx, batch, CLAIM_SECONDS):
            raise NotOursError
        if sealed:
            await line_store.insert(tx, batch.id, batch.organization_id, sealed)


def _sealed(ctx: Context, batch: Batch, lines: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return [
        (number, ctx.sealing.seal(line, place_of("sealed", line_store.line_id(batch.id, number))))
        for number, line in lines
    ]
