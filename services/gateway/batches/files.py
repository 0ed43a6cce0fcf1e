"""Files in sealed pieces: written as they come, read one piece at a time."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final
from uuid import uuid4

import structlog

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.permissions import Permission
from libs.common.database import Transaction
from libs.common.errors import NotFound, StorageFull, TooLarge, Unavailable
from libs.common.sealing import CannotOpenError, Place
from services.gateway.context import Context
from services.gateway.permissions import whose
from services.gateway.store import files as file_store
from services.gateway.store.files import File

log = structlog.get_logger(__name__)

CHUNK_BYTES: Final = 256 * 1024
LONGEST_NAME: Final = 255
MOST_FILES: Final = 10_000
"""Of one organization."""

FULL: Final = "your organization keeps as many files, or bytes of them, as it may: delete some first"


class FileWriter:
    """A new file. Nobody sees it before ``complete``; who gives up calls ``discard``."""

    def __init__(self, ctx: Context, organization: str, file_id: str, most_bytes: int | None) -> None:
        self.id = file_id
        self.size = 0
        self._ctx = ctx
        self._organization = organization
        self._most_bytes = most_bytes
        self._chunks = 0
        self._buffer = bytearray()

    @classmethod
    async def begin(
        cls, ctx: Context, *, organization: str, user_id: str, purpose: str, filename: str, most_bytes: int | None
    ) -> "FileWriter":
        file_id = f"file-{uuid4().hex}"
        name = filename.replace("\0", "")[:LONGEST_NAME]
        async with ctx.db.transaction(organization) as tx:
            await file_store.insert(
                tx,
                file_id,
                organization=organization,
                user_id=user_id,
                purpose=purpose,
                filename=name,
                days=ctx.settings.file_days,
            )
        return cls(ctx, organization, file_id, most_bytes)

    async def write(self, data: bytes) -> None:
        """Raises ``TooLarge``, and ``NotFound`` if the file was deleted meanwhile."""
        self.size += len(data)
        if self._most_bytes is not None and self.size > self._most_bytes:
            raise TooLarge(f"the file is larger than {self._most_bytes} bytes")
        self._buffer += data
        while len(self._buffer) >= CHUNK_BYTES:
            await self._store(bytes(self._buffer[:CHUNK_BYTES]))
            del self._buffer[:CHUNK_BYTES]

    async def flush(self) -> None:
        """After the last ``write``. Raises ``NotFound`` if the file was deleted meanwhile."""
        if self._buffer:
            await self._store(bytes(self._buffer))
            self._buffer.clear()

    async def complete(self) -> File:
        """Raises ``NotFound`` if the file was deleted meanwhile, and ``StorageFull`` if others took its room."""
        await self.flush()
        async with self._ctx.db.transaction(self._organization) as tx:
            await file_store.hold(tx, self._organization)
            file = await file_store.complete(tx, self.id)
            if min(_left(self._ctx, await file_store.kept(tx, complete=True))) < 0:
                raise StorageFull(FULL)
        if file is None:
            raise NotFound("the file was deleted")
        return file

    async def discard(self) -> None:
        async with self._ctx.db.transaction(self._organization) as tx:
            await file_store.delete(tx, self.id, None)

    async def _store(self, plain: bytes) -> None:
        sealed = await asyncio.to_thread(self._ctx.sealing.seal, plain, _place(self.id, self._chunks))
        async with self._ctx.db.transaction(self._organization) as tx:
            there = await file_store.add_chunk(
                tx, self.id, self._organization, number=self._chunks, sealed=sealed, size=len(plain)
            )
        if not there:
            raise NotFound("the file was deleted")
        self._chunks += 1


def _place(file_id: str, number: int) -> Place:
    return Place("file_chunks", "sealed", file_store.chunk_id(file_id, number))


async def upload(ctx: Context, caller: Identity, filename: str) -> FileWriter:
    """Raises ``StorageFull`` if the organization keeps too much already."""
    async with ctx.db.transaction(caller.organization_id) as tx:
        left = await room(ctx, tx)
    return await FileWriter.begin(
        ctx,
        organization=caller.organization_id,
        user_id=caller.user_id,
        purpose="batch",
        filename=filename,
        most_bytes=min(left, ctx.settings.file_bytes),
    )


async def room(ctx: Context, tx: Transaction) -> int:
    """Bytes that the organization of the transaction may still add. Raises ``StorageFull`` if there are none."""
    files_left, bytes_left = _left(ctx, await file_store.kept(tx))
    if min(files_left, bytes_left) <= 0:
        raise StorageFull(FULL)
    return bytes_left


def _left(ctx: Context, kept: tuple[int, int]) -> tuple[int, int]:
    """Files and bytes of them. Below 0: several were uploaded at once."""
    files, size = kept
    return MOST_FILES - files, ctx.settings.organization_file_bytes - size


async def discard(writer: FileWriter) -> None:
    """If the database is away, it goes with the uploads that were given up."""
    try:
        await writer.discard()
    except Unavailable as error:
        log.warning("an upload could not be discarded", file=writer.id, reason=error.message)


async def content(ctx: Context, file: File) -> AsyncGenerator[bytes]:
    """Raises ``NotFound`` where it has been deleted meanwhile."""
    number, left = 0, file.bytes
    while left:
        async with ctx.db.transaction(file.organization_id) as tx:
            sealed = await file_store.chunk(tx, file.id, number)
        if sealed is None:
            raise NotFound("the file was deleted")
        try:
            plain = await asyncio.to_thread(ctx.sealing.open, sealed, _place(file.id, number))
        except CannotOpenError:
            log.error("a file was sealed with a key that is gone", file=file.id)
            raise NotFound("the file was sealed with a key that is gone") from None
        yield plain
        number, left = number + 1, left - len(plain)


async def find(ctx: Context, caller: Identity, file_id: str) -> File:
    """Raises ``NotFound``, also for those of others unless the caller may read others' requests."""
    async with ctx.db.transaction(caller.organization_id) as tx:
        file = await file_store.get(tx, file_id, whose(caller, Permission.REQUEST_READ))
    if file is None:
        raise NotFound(f"No such File object: {file_id}")
    return file


async def listed(
    ctx: Context, caller: Identity, purpose: str | None, after: str | None, limit: int, *, oldest_first: bool
) -> tuple[list[File], bool]:
    """And whether there are more."""
    owner = whose(caller, Permission.REQUEST_READ)
    async with ctx.db.transaction(caller.organization_id) as tx:
        found = await file_store.some(tx, owner, purpose, after, limit + 1, oldest_first=oldest_first)
    return found[:limit], len(found) > limit


async def delete(ctx: Context, caller: Identity, file_id: str) -> None:
    """Raises ``NotFound``, also for those of others unless the caller may manage others' requests."""
    async with ctx.db.transaction(caller.organization_id) as tx:
        if not await file_store.delete(tx, file_id, whose(caller, Permission.REQUEST_MANAGE)):
            raise NotFound(f"No such File object: {file_id}")
