"""Fetching the chunks of a partial blob: from peers first, what they do not give from the registry."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx
import structlog
from prometheus_client import Counter

from libs.common.contracts.registry import BlobLocation
from services.worker.blobs.files import CHUNK_BYTES, BlobFiles

log = structlog.get_logger(__name__)

_received = Counter("worker_blob_bytes_received_total", "Bytes of blobs fetched, by who gave them", ["source"])

CHUNK_SECONDS: Final = 120.0
"""A source that is slower than this is no help."""

LANES_PER_SOURCE: Final = 2
"""Requests at once: one is on its way while the other is written."""


@dataclass(frozen=True)
class Source:
    kind: str
    """``peer`` or ``registry``"""

    url: str
    token: str = field(repr=False)


class FetchFailed(Exception):
    """Chunks are missing and no source gives them; what has arrived stays."""


@dataclass
class Download:
    """One attempt to complete a partial. A source that fails is not asked again in it."""

    http: httpx.AsyncClient
    files: BlobFiles
    location: BlobLocation
    registry_token: str = field(repr=False)
    received: int = 0
    problem: str = ""

    async def run(self, *, use_peers: bool) -> None:
        """Raises ``FetchFailed`` and ``OSError``."""
        arrived = await asyncio.to_thread(self.files.prepare, self.location.size)
        missing = deque(index for index, there in enumerate(arrived) if not there)
        peers = [Source("peer", peer.url, peer.token) for peer in self.location.peers] if use_peers else []
        await self._drain(peers, missing)
        if missing and self.received:
            raise FetchFailed(self.problem)  # tokens expire: peers that gave something are asked again with new ones
        await self._drain([Source("registry", self.location.url, self.registry_token)], missing)
        if missing:
            raise FetchFailed(self.problem)

    async def _drain(self, sources: Sequence[Source], missing: deque[int]) -> None:
        try:
            async with asyncio.TaskGroup() as lanes:
                for source in sources:
                    for _ in range(LANES_PER_SOURCE):
                        lanes.create_task(self._lane(source, missing))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _lane(self, source: Source, missing: deque[int]) -> None:
        while missing:
            index = missing.popleft()
            try:
                async with asyncio.timeout(CHUNK_SECONDS):
                    chunk = await self._get(source, index)
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                missing.append(index)
                self.problem = f"{type(error).__name__}: {error}"
                log.info("a source of a blob failed", digest=self.files.digest, url=source.url, problem=self.problem)
                return
            await asyncio.to_thread(self.files.store, index, chunk)
            self.received += len(chunk)
            _received.labels(source.kind).inc(len(chunk))

    async def _get(self, source: Source, index: int) -> bytes:
        """Raises ``httpx.HTTPError`` also for an answer that is not this chunk."""
        start = index * CHUNK_BYTES
        end = min(start + CHUNK_BYTES, self.location.size)
        headers = {
            "Accept-Encoding": "identity",
            "Authorization": f"Bearer {source.token}",
            "Range": f"bytes={start}-{end - 1}",
        }
        chunk = bytearray()
        async with self.http.stream("GET", source.url, headers=headers) as response:
            response.raise_for_status()
            if response.status_code != 206:
                raise httpx.RemoteProtocolError("the server does not know ranges")
            async for piece in response.aiter_raw():
                chunk += piece
                if len(chunk) > end - start:
                    raise httpx.RemoteProtocolError("more bytes than were asked for")
        if len(chunk) < end - start:
            raise httpx.RemoteProtocolError("fewer bytes than were asked for")
        return bytes(chunk)
