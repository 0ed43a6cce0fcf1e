"""Blobs from another registry that behaves badly, without a database."""

import asyncio
import hashlib
import random
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from libs.common.errors import Forbidden, NotFound, ServiceError, StorageFull
from services.registry.blobs import Blob, BlobStore
from services.registry.settings import Settings
from services.registry.transfer.downloads import Downloads
from services.registry.transfer.remote import Remote, Remotes
from tests.fixtures.buses import eventually
from tests.fixtures.download_process import an_owner
from tests.fixtures.fake_registry import FakeRegistry

SIZE = 3_000_000
PART = 400_000


@dataclass
class Here:
    """A registry's directory and what it needs to fill it."""

    store: BlobStore
    downloads: Downloads
    remote: Remote
    progress: list[int] = field(default_factory=list)

    async def fetch(self, blob: Blob) -> None:
        await self.downloads.fetch(self.remote, blob, self.progress.append, an_owner(self.store, blob))

    def has(self, blob: Blob, content: bytes) -> bool:
        path = self.store.path(blob.digest)
        return path.is_file() and path.read_bytes() == content

    def files(self) -> list[str]:
        return sorted(path.name for path in self.store.path("sha256:" + "0" * 64).parent.iterdir())


@pytest.fixture
async def there() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry().running() as registry:
        yield registry


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "registry",
        blob_token=SecretStr("a token of sixteen characters"),
        allow_private_hosts=("127.0.0.0/8",),
        part_min_bytes=PART,
        transfer_streams=4,
    )


@pytest.fixture
async def remotes(settings: Settings) -> AsyncIterator[Remotes]:
    async with Remotes.open(settings) as remotes:
        yield remotes


NewHere = Callable[[], Here]


@pytest.fixture
def new_here(settings: Settings, remotes: Remotes, there: FakeRegistry) -> NewHere:
    """Another process on the same directory each time."""

    def make() -> Here:
        store = BlobStore(settings.data_dir)
        remote = remotes.repository(f"{there.host}/ns/model", insecure=True)
        return Here(store, Downloads(store, settings), remote)

    return make


@pytest.fixture
def here(new_here: NewHere) -> Here:
    return new_here()


@pytest.fixture(scope="session")
def content() -> bytes:
    return random.Random(0).randbytes(SIZE)


@pytest.fixture
def blob(there: FakeRegistry, content: bytes) -> Blob:
    return Blob(**there.add_blob(content))


def bytes_asked_for(there: FakeRegistry) -> int:
    return sum(seen.last - seen.first + 1 for seen in there.seen if seen.first is not None and seen.last is not None)


async def test_in_parallel_parts(here: Here, there: FakeRegistry, blob: Blob, content: bytes) -> None:
    await here.fetch(blob)
    assert here.has(blob, content)
    ranges = sorted((seen.first or 0, seen.last or 0) for seen in there.asked("GET", blob.digest))
    assert len(ranges) == 4
    assert bytes_asked_for(there) == SIZE
    assert here.progress == sorted(here.progress)
    assert here.progress[-1] == SIZE
    assert here.files() == [blob.digest.replace(":", "-")]


async def test_an_empty_blob(here: Here, there: FakeRegistry) -> None:
    blob = Blob(**there.add_blob(b""))
    await here.fetch(blob)
    assert here.has(blob, b"")


async def test_broken_connections_are_gone_on_with(here: Here, there: FakeRegistry, blob: Blob, content: bytes) -> None:
    there.cut_after = [200_000, 0, 300_000, 100_000]
    await here.fetch(blob)
    assert here.has(blob, content)
    assert there.cut_after == []
    assert SIZE < bytes_asked_for(there) < 2 * SIZE, "what had come was not asked for again"


async def test_refusals_that_pass(here: Here, there: FakeRegistry, blob: Blob, content: bytes) -> None:
    there.refusals = [503, 429, 500]
    await here.fetch(blob)
    assert here.has(blob, content)


async def test_a_refusal_that_does_not(here: Here, there: FakeRegistry, blob: Blob) -> None:
    there.refusals = [403]
    with pytest.raises(ServiceError, match="403: not now"):
        await here.fetch(blob)


async def test_silence_is_given_up(settings: Settings, there: FakeRegistry, blob: Blob, content: bytes) -> None:
    impatient = settings.model_copy(update={"stall_seconds": 0.2})
    store = BlobStore(settings.data_dir)
    there.silent_after = [100_000, 100_000]
    async with Remotes.open(impatient) as remotes:
        remote = remotes.repository(f"{there.host}/ns/model", insecure=True)
        await Downloads(store, impatient).fetch(remote, blob, lambda _: None, an_owner(store, blob))
    assert store.path(blob.digest).read_bytes() == content


async def test_wrong_bytes_are_refused_and_not_kept(
    here: Here, there: FakeRegistry, blob: Blob, content: bytes
) -> None:
    there.blobs[blob.digest] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(ServiceError, match="digest mismatch, file must be downloaded again"):
        await here.fetch(blob)
    assert here.files() == []
    there.blobs[blob.digest] = content
    await here.fetch(blob)
    assert here.has(blob, content)


async def test_a_blob_that_is_not_there(here: Here) -> None:
    with pytest.raises(NotFound):
        await here.fetch(Blob("sha256:" + "0" * 64, 10))


async def test_more_than_the_disk_holds(here: Here, blob: Blob) -> None:
    with pytest.raises(StorageFull):
        await here.fetch(Blob(blob.digest, 1 << 60))


async def test_a_server_without_ranges(new_here: NewHere, there: FakeRegistry, blob: Blob) -> None:
    there.serves_ranges = False
    small = b"x" * 100_000
    there.cut_after = [50_000]
    one_part = Blob(f"sha256:{hashlib.sha256(small).hexdigest()}", len(small))
    there.add_blob(small)
    here = new_here()
    await here.fetch(one_part)
    assert here.has(one_part, small)
    with pytest.raises(ServiceError, match="does not serve ranges"):
        await here.fetch(blob)


async def test_a_download_that_was_cancelled_goes_on_where_it_was(
    new_here: NewHere, there: FakeRegistry, blob: Blob, content: bytes
) -> None:
    there.silent_after = [700_000] * 4
    first = new_here()
    task = asyncio.create_task(first.fetch(blob))
    await eventually(lambda: first.progress and first.progress[-1] >= 4 * 700_000)
    # What is known of the parts is written twice a second; then it is surely behind.
    state = first.store.partial_path(blob.digest, 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert state.exists()
    there.seen.clear()
    second = new_here()
    await second.fetch(blob)
    assert second.has(blob, content)
    assert bytes_asked_for(there) < SIZE
    assert second.progress[0] > 0


async def test_who_wants_the_same_blob_shares_the_download(
    here: Here, there: FakeRegistry, blob: Blob, content: bytes
) -> None:
    there.silent_after = [100_000]
    tasks = [asyncio.create_task(here.fetch(blob)) for _ in range(3)]
    await eventually(lambda: len(there.seen) == 4)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    there.speak.set()
    await asyncio.gather(*tasks[1:])
    assert here.has(blob, content)
    assert bytes_asked_for(there) == SIZE


async def test_it_stops_with_the_last_who_waits_and_starts_anew_with_the_next(
    here: Here, there: FakeRegistry, blob: Blob, content: bytes
) -> None:
    there.silent_after = [100_000] * 4
    tasks = [asyncio.create_task(here.fetch(blob)) for _ in range(2)]
    await eventually(lambda: len(there.seen) == 4)
    for task in tasks:
        task.cancel()
    late = asyncio.create_task(here.fetch(blob))
    await asyncio.gather(*tasks, return_exceptions=True)
    await late
    assert here.has(blob, content)


async def test_a_failure_reaches_all_who_share(here: Here, there: FakeRegistry, blob: Blob) -> None:
    del there.blobs[blob.digest]
    results = await asyncio.gather(here.fetch(blob), here.fetch(blob), return_exceptions=True)
    assert [type(result) for result in results] == [NotFound, NotFound]


async def test_nobody_depends_on_the_registry_that_another_pull_has_chosen(
    here: Here, remotes: Remotes, blob: Blob, content: bytes
) -> None:
    async with FakeRegistry().running() as without_it:
        other = remotes.repository(f"{without_it.host}/ns/model", insecure=True)
        _, fetched = await asyncio.gather(
            here.downloads.fetch(other, blob, lambda _: None, an_owner(here.store, blob)),
            here.fetch(blob),
            return_exceptions=True,
        )
    assert fetched is None
    assert here.has(blob, content)


async def test_another_process_waits_and_finds_it_done(
    new_here: NewHere, there: FakeRegistry, blob: Blob, content: bytes
) -> None:
    first, second = new_here(), new_here()
    there.silent_after = [100_000]
    fetching = asyncio.create_task(first.fetch(blob))
    await eventually(lambda: len(there.seen) == 4 and first.progress[-1] > 0)
    waiting = asyncio.create_task(second.fetch(blob))
    await eventually(lambda: second.progress and second.progress[-1] > 0)
    there.speak.set()
    await asyncio.gather(fetching, waiting)
    assert second.has(blob, content)
    assert bytes_asked_for(there) == SIZE
    assert second.files() == [blob.digest.replace(":", "-")]


async def test_another_process_goes_on_when_the_first_gives_up(
    new_here: NewHere, there: FakeRegistry, blob: Blob, content: bytes
) -> None:
    first, second = new_here(), new_here()
    there.silent_after = [100_000]
    fetching = asyncio.create_task(first.fetch(blob))
    await eventually(lambda: len(there.seen) == 4)
    waiting = asyncio.create_task(second.fetch(blob))
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    await waiting
    assert second.has(blob, content)


async def test_a_redirect_is_followed_without_our_credential(
    settings: Settings, there: FakeRegistry, blob: Blob, content: bytes
) -> None:
    async with FakeRegistry().running() as elsewhere:
        elsewhere.add_blob(content)
        there.blobs_at = f"http://localhost:{elsewhere.port}"
        credentials = {f"http://{there.host}": SecretStr("a-token")}
        trusting = settings.model_copy(update={"credentials": credentials})
        async with Remotes.open(trusting) as remotes:
            remote = remotes.repository(f"{there.host}/ns/model", insecure=True)
            store = BlobStore(settings.data_dir)
            await Downloads(store, settings).fetch(remote, blob, lambda _: None, an_owner(store, blob))
    assert store.path(blob.digest).read_bytes() == content
    assert {seen.authorization for seen in there.seen} == {"Bearer a-token"}
    assert {seen.authorization for seen in elsewhere.seen} == {None}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://127.0.0.2:1", (Forbidden, "127.0.0.2 is not on a public address")),
        ("http://169.254.169.254", (Forbidden, "169.254.169.254 is not on a public address")),
        ("http://[::1]:1", (Forbidden, "::1 is not on a public address")),
        ("file:///etc/passwd?", (ServiceError, "a place that is not allowed")),
        ("gopher://127.0.0.1", (ServiceError, "a place that is not allowed")),
    ],
)
async def test_a_redirect_to_where_nobody_should_go(
    settings: Settings, there: FakeRegistry, blob: Blob, target: str, expected: tuple[type[ServiceError], str]
) -> None:
    there.blobs_at = target
    careful = settings.model_copy(update={"allow_private_hosts": ("127.0.0.1/32",)})
    async with Remotes.open(careful) as remotes:
        remote = remotes.repository(f"{there.host}/ns/model", insecure=True)
        error, message = expected
        store = BlobStore(settings.data_dir)
        with pytest.raises(error, match=message):
            await Downloads(store, settings).fetch(remote, blob, lambda _: None, an_owner(store, blob))


async def test_redirects_in_a_circle(here: Here, there: FakeRegistry, blob: Blob) -> None:
    there.blobs_at = there.url
    with pytest.raises(ServiceError, match="too many redirects"):
        await here.fetch(blob)


async def test_a_name_that_leads_inside(settings: Settings, there: FakeRegistry, blob: Blob) -> None:
    careful = settings.model_copy(update={"allow_private_hosts": ()})
    async with Remotes.open(careful) as remotes:
        remote = remotes.repository(f"localhost:{there.port}/ns/model", insecure=True)
        store = BlobStore(settings.data_dir)
        with pytest.raises(Forbidden, match="localhost is not on a public address"):
            await Downloads(store, settings).fetch(remote, blob, lambda _: None, an_owner(store, blob))
    assert there.seen == []


async def test_a_killed_process_is_gone_on_from(
    settings: Settings, new_here: NewHere, there: FakeRegistry, blob: Blob, content: bytes
) -> None:
    there.silent_after = [700_000] * 4
    module = "tests.fixtures.download_process"
    arguments = (str(settings.data_dir), there.host, blob.digest, str(blob.size))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while int(await process.stdout.readline()) < 4 * 700_000:
            pass
        process.kill()
        await process.wait()
    there.seen.clear()
    here = new_here()
    await here.fetch(blob)
    assert here.has(blob, content)
    assert here.progress[0] > 0
    assert bytes_asked_for(there) < SIZE
