"""Who wants a blob that is being fetched already shares it; it stops when nobody wants it any more.

From another registry it is another download: nobody must depend on one that somebody else has named. It waits for the
lock of the partial file, as that of another process would, and then goes on from there or finds the blob.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from yarl import URL

from services.registry.blobs import Blob, BlobStore
from services.registry.settings import Settings
from services.registry.transfer.download import Download, Owner
from services.registry.transfer.remote import Remote

OnProgress = Callable[[int], None]

Key = tuple[str, URL, str]
"""The organization, the address of the repository, and the digest."""


@dataclass(eq=False)
class Shared:
    """A download and those who wait for it."""

    waiting: list[OnProgress] = field(default_factory=list)
    completed: int = 0
    task: "asyncio.Task[None] | None" = None

    def progressed(self, completed: int) -> None:
        self.completed = completed
        for on_progress in self.waiting:
            on_progress(completed)


class Downloads:
    def __init__(self, store: BlobStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._streams = asyncio.Semaphore(settings.transfer_streams)
        self._running: dict[Key, Shared] = {}

    async def fetch(self, remote: Remote, blob: Blob, on_progress: OnProgress, owner: Owner) -> None:
        """Returns when the blob is in the store. ``on_progress`` gets the bytes that are there.

        Raises what ``Download.run`` raises, also to those who share it.
        """
        key = owner.organization, remote.base, blob.digest
        shared = self._running.get(key) or self._start(key, remote, blob, owner)
        assert shared.task is not None
        shared.waiting.append(on_progress)
        if shared.completed:
            on_progress(shared.completed)
        try:
            await asyncio.shield(shared.task)
        finally:
            shared.waiting.remove(on_progress)
            if not shared.waiting and not shared.task.done():
                self._forget(key, shared)
                shared.task.cancel()
                await asyncio.wait({shared.task})

    def _start(self, key: Key, remote: Remote, blob: Blob, owner: Owner) -> Shared:
        shared = self._running[key] = Shared()
        download = Download(
            self._store,
            self._settings,
            self._streams,
            remote=remote,
            blob=blob,
            on_progress=shared.progressed,
            owner=owner,
        )
        shared.task = asyncio.create_task(download.run(), name=f"download of {blob.digest}")
        shared.task.add_done_callback(lambda _: self._forget(key, shared))
        return shared

    def _forget(self, key: Key, shared: Shared) -> None:
        """Who wants it from now on starts anew: what was cancelled is nothing to wait for."""
        if self._running.get(key) is shared:
            del self._running[key]
