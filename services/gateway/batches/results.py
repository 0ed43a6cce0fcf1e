"""A batch ends: what its lines came to is written into files, and the lines are forgotten."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from libs.common.sealing import CannotOpenError
from services.gateway.api.json_body import decode
from services.gateway.batches.files import FileWriter
from services.gateway.batches.reading import CLAIM_SECONDS, NotOursError, place_of
from services.gateway.context import Context
from services.gateway.store import batch_lines as line_store
from services.gateway.store import batches as batch_store
from services.gateway.store import files as file_store
from services.gateway.store.batch_lines import DoneLine
from services.gateway.store.batches import Batch

PAGE_LINES: Final = 200
PAGE_BYTES: Final = 4 * 1024 * 1024

KEY_GONE: Final = ("internal", "it was sealed with a key that is gone")

NOT_RUN: Final = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed, because the batch was cancelled."),
}


@dataclass
class Output:
    """A file that is begun when there is something to write."""

    ctx: Context
    batch: Batch
    name: str
    writer: FileWriter | None = None

    async def write(self, line: bytes) -> None:
        if self.writer is None:
            self.writer = await FileWriter.begin(
                self.ctx,
                organization=self.batch.organization_id,
                user_id=self.batch.user_id,
                purpose="batch_output",
                filename=f"{self.batch.id}_{self.name}.jsonl",
                most_bytes=None,
            )
        await self.writer.write(line + b"\n")

    @property
    def id(self) -> str | None:
        return self.writer.id if self.writer else None


async def write_results(ctx: Context, batch: Batch) -> None:
    """All of it counts, or nothing: then it is done again."""
    end = _end(batch)
    output, errors = Output(ctx, batch, "output"), Output(ctx, batch, "error")
    try:
        async for line in _lines(ctx, batch):
            shown = await asyncio.to_thread(_shown, ctx, batch, line, end)
            await (output if line.succeeded else errors).write(shown)
        await _finish(ctx, batch, end, [output, errors])
    except NotOursError:
        await _discard(output, errors)


def _end(batch: Batch) -> str:
    if batch.status == "cancelling":
        return "cancelled"
    return "expired" if batch.expired_at is not None else "completed"


async def _lines(ctx: Context, batch: Batch) -> AsyncIterator[DoneLine]:
    """None of a batch that never began. Raises ``NotOursError``."""
    number = -1
    while batch.in_progress_at is not None:
        async with ctx.db.transaction(batch.organization_id) as tx:
            if not await batch_store.keep_claim(tx, batch, CLAIM_SECONDS):
                raise NotOursError
            page = await line_store.some(tx, batch.id, number, PAGE_LINES, PAGE_BYTES)
        for line in page:
            yield line
        if not page:
            return
        number = page[-1].number


def _shown(ctx: Context, batch: Batch, line: DoneLine, end: str) -> bytes:
    line_id = line_store.line_id(batch.id, line.number)
    try:
        if line.answer is not None:
            return ctx.sealing.open(line.answer, place_of("answer", line_id))
        assert line.sealed is not None
        request = decode(ctx.sealing.open(line.sealed, place_of("sealed", line_id)))
    except CannotOpenError:
        return answer_line(line_id, None, error=KEY_GONE)
    return answer_line(line_id, request["custom_id"], error=NOT_RUN.get(end, ("internal", "it was not run")))


def answer_line(
    line_id: str,
    custom_id: str | None,
    *,
    response: dict[str, Any] | None = None,
    error: tuple[str, str] | None = None,
) -> bytes:
    """As OpenAI writes them into output and error files."""
    shown = {"code": error[0], "message": error[1]} if error else None
    return orjson.dumps({"id": f"batch_req_{line_id}", "custom_id": custom_id, "response": response, "error": shown})


async def _finish(ctx: Context, batch: Batch, end: str, outputs: list[Output]) -> None:
    """Raises ``NotOursError``."""
    for output in outputs:
        if output.writer is not None:
            await output.writer.flush()
    async with ctx.db.transaction(batch.organization_id) as tx:
        for output in outputs:
            if output.id is not None:
                await file_store.complete(tx, output.id)
        if not await batch_store.finish(tx, batch.id, end, *(output.id for output in outputs)):
            raise NotOursError


async def _discard(*outputs: Output) -> None:
    for output in outputs:
        if output.writer is not None:
            await output.writer.discard()
