"""Uploads that come in pieces: one file each in ``<home>/uploads``, which replicas share, so that any of them goes on.

How much has arrived is the length of the file. Nothing else is remembered: the digest is checked at the end.
"""

import asyncio
import fcntl
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from libs.common import actor
from libs.common.errors import Conflict, NotFound, OutOfRange, Overloaded, TooLarge
from services.registry import holdings, manifests
from services.registry.blobs import Blob, full_disks_explained, gather
from services.registry.context import Context

MOST_UPLOADS: Final = 1000
"""Of each organization: none locks the others out."""

LONGEST_PAUSE_SECONDS: Final = 24 * 3600
"""An upload that nobody has touched for so long is given up."""

CROWDED_PAUSE_SECONDS: Final = 600
"""The same while there are too many: whoever began them and went away must not lock everybody out for a day."""

_ID: Final = re.compile(r"[0-9a-f]{32}")


async def begin(ctx: Context) -> str:
    """The id of a new upload. Raises ``Overloaded`` while too many are open."""
    return await asyncio.to_thread(_begin, _directory(ctx))


async def give_up_old(ctx: Context) -> None:
    """Those that nobody goes on with are removed."""
    for home in manifests.homes(ctx.settings.data_dir):
        await asyncio.to_thread(_open_uploads, home / "uploads", LONGEST_PAUSE_SECONDS)


async def size(ctx: Context, upload: str) -> int:
    """How many bytes have arrived. Raises ``NotFound``."""
    path = _path(ctx, upload)
    try:
        return (await asyncio.to_thread(path.stat)).st_size
    except FileNotFoundError:
        raise NotFound("there is no such upload") from None


async def append(ctx: Context, upload: str, start: int | None, chunks: AsyncIterator[bytes]) -> int:
    """Write what arrives at ``start``, or at the end; how many bytes there are now.

    A piece that is sent again replaces what came of it and after it; of a piece that breaks off, what came stays.
    Raises ``NotFound``; ``OutOfRange`` for a gap; ``Conflict`` while another piece arrives; ``TooLarge``.
    """
    with _alone(_path(ctx, upload)) as file, full_disks_explained():
        end = await asyncio.to_thread(_go_to, file, start)
        async for batch in gather(chunks):
            end += len(batch)
            if end > ctx.settings.max_blob_bytes:
                raise TooLarge
            await asyncio.to_thread(file.write, batch)
    return end


async def finish(ctx: Context, upload: str, digest: str) -> Blob:
    """The upload becomes a blob; right or wrong, it is over. Raises ``NotFound``, ``Conflict``, ``InvalidRequest``."""
    path = _path(ctx, upload)
    with _alone(path):
        return await holdings.brought(ctx, await ctx.blobs.adopt(path, digest))


async def abandon(ctx: Context, upload: str) -> None:
    """Raises ``NotFound``."""
    await size(ctx, upload)
    await asyncio.to_thread(_path(ctx, upload).unlink, missing_ok=True)


def _path(ctx: Context, upload: str) -> Path:
    if not _ID.fullmatch(upload):
        raise NotFound("there is no such upload")
    return _directory(ctx) / upload


def _directory(ctx: Context) -> Path:
    return manifests.home(ctx.settings.data_dir, actor.current().organization_id) / "uploads"


def _begin(directory: Path) -> str:
    if all(_open_uploads(directory, pause) >= MOST_UPLOADS for pause in (LONGEST_PAUSE_SECONDS, CROWDED_PAUSE_SECONDS)):
        raise Overloaded("too many uploads are open")
    upload = secrets.token_hex(16)
    with full_disks_explained():
        (directory / upload).touch(exist_ok=False)
    return upload


def _open_uploads(directory: Path, pause_seconds: float) -> int:
    """How many there are, once those that nobody has touched for so long are gone."""
    directory.mkdir(parents=True, exist_ok=True)
    given_up_before = time.time() - pause_seconds
    count = 0
    for entry in os.scandir(directory):
        try:
            if entry.stat().st_mtime < given_up_before:
                Path(entry.path).unlink(missing_ok=True)
            else:
                count += 1
        except FileNotFoundError:  # finished meanwhile
            continue
    return count


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """The file, while nobody else writes to it, on any replica; the kernel lets go of it when its holder dies."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        raise NotFound("there is no such upload") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict("another piece of this upload is still arriving") from None
        yield file


def _go_to(file: BinaryIO, start: int | None) -> int:
    end = file.seek(0, os.SEEK_END)
    if start is None:
        return end
    if start > end:
        raise OutOfRange
    file.truncate(start)
    return file.seek(start)
