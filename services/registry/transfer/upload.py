"""Give one blob to another registry: in pieces, so that a broken connection costs one of them."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from yarl import URL

from libs.common.errors import NotFound, ServiceError
from services.registry.blobs import BATCH_BYTES, Blob
from services.registry.transfer.remote import Interrupted, Remote, retrying

RECEIVED: Final = re.compile(r"(?:bytes=)?0-(\d{1,18})")


class Upload:
    """``on_progress`` gets the number of bytes that were sent; ``origin`` is a repository that may have the blob."""

    def __init__(
        self,
        remote: Remote,
        blob: Blob,
        path: Path,
        *,
        origin: str,
        piece_bytes: int,
        on_progress: Callable[[int], None],
    ) -> None:
        self._remote = remote
        self._blob = blob
        self._path = path
        self._origin = origin
        self._piece_bytes = piece_bytes
        self._on_progress = on_progress
        self._sent = 0

    async def run(self) -> None:
        """Returns when the other registry has the blob. Raises ``ServiceError``, ``OSError``."""
        if not await self._is_there():
            location = await self._begin()
            while location is not None and self._sent < self._blob.size:
                async for attempt in retrying():
                    with attempt:
                        location = await self._send_piece(location, again=attempt.retry_state.attempt_number > 1)
            if location is not None:
                await self._finish(location)
        self._on_progress(self._blob.size)

    async def _is_there(self) -> bool:
        try:
            async for attempt in retrying():
                with attempt:
                    async with self._remote.request("HEAD", self._remote.base / "blobs" / self._blob.digest):
                        return True
        except NotFound:
            pass
        return False

    async def _begin(self) -> URL | None:
        """Where to send the bytes; None if the other registry has mounted the blob from where it has it already."""
        url = self._remote.base / "blobs" / "uploads" / ""
        if self._origin:
            url = url.update_query({"mount": self._blob.digest, "from": self._origin})
        async for attempt in retrying():
            with attempt:
                async with self._remote.request("POST", url) as response:
                    if response.status == 201:
                        return None
                    return self._remote.next_url(url, response.headers.get("Location", ""))
        raise AssertionError("retrying ends with a result or an error")

    async def _send_piece(self, location: URL, *, again: bool) -> URL:
        """The place for the next one."""
        if again:
            location = await self._find_where_it_broke(location)
        start, end = self._sent, min(self._sent + self._piece_bytes, self._blob.size)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(end - start),
            "Content-Range": f"{start}-{end - 1}",
        }
        async with self._remote.request(
            "PATCH", location, headers=headers, body=lambda: self._read(start, end)
        ) as response:
            self._sent = end
            return self._remote.next_url(location, response.headers.get("Location", str(location)))

    async def _find_where_it_broke(self, location: URL) -> URL:
        async with self._remote.request("GET", location) as response:
            received = RECEIVED.fullmatch(response.headers.get("Range", ""))
            # "0-0" is said of nothing and of one byte alike.
            last = int(received[1]) if received else 0
            self._sent = min(last + 1, self._blob.size) if last else 0
            return self._remote.next_url(location, response.headers.get("Location", str(location)))

    async def _read(self, start: int, end: int) -> AsyncIterator[bytes]:
        with self._path.open("rb") as file:
            file.seek(start)
            while start < end:
                batch = await asyncio.to_thread(file.read, min(BATCH_BYTES, end - start))
                if not batch:
                    raise Interrupted("the blob was deleted meanwhile")
                yield batch
                start += len(batch)
                self._on_progress(start)

    async def _finish(self, location: URL) -> None:
        async for attempt in retrying():
            with attempt:
                url = location.update_query(digest=self._blob.digest)
                async with self._remote.request("PUT", url, patient=True) as response:
                    if response.status != 201:
                        raise ServiceError(f"{location.host} did not take the blob")
