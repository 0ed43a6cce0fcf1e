"""Get a model from another registry, under the name that says where it is."""

from collections.abc import Iterator
from contextlib import contextmanager

from libs.common import actor
from libs.common.contracts.registry import Progress
from libs.common.errors import Forbidden, NotFound, ServiceError, TooLarge
from services.registry import catalog, holdings, manifests, names
from services.registry.blobs import Blob
from services.registry.context import Context
from services.registry.manifests import LARGEST_MANIFEST_BYTES, MANIFEST_TYPE, Manifest
from services.registry.progress import Report
from services.registry.transfer.download import Owner
from services.registry.transfer.remote import Remote


async def pull(ctx: Context, name: str, *, insecure: bool, report: Report) -> None:
    """What is here already is not fetched again, and what was begun is gone on with.

    Raises ``InvalidModelName``, ``Forbidden`` for a host that is not allowed, ``StorageFull``, ``TooLarge`` and, as
    Ollama words it, ``ServiceError`` for whatever the other registry does wrong.
    """
    parsed = names.parse(name)
    remote = ctx.remotes.repository(name, insecure=insecure)
    report(Progress(status="pulling manifest"))
    manifest = await _manifest(remote, parsed.tag)
    if manifest.size > ctx.settings.pull_max_bytes:
        raise TooLarge(f"the model has {manifest.size} bytes, more than the {ctx.settings.pull_max_bytes} allowed")
    needed = _blobs(manifest)
    for blob in needed:
        await _fetch(ctx, remote, blob, report)
    report(Progress(status="verifying sha256 digest"))
    for blob in needed:
        # Each was verified as it came; but a model that shared it may have been deleted meanwhile.
        if await holdings.renew(ctx, blob.digest) is None:
            await _fetch(ctx, remote, blob, report)
    report(Progress(status="writing manifest"))
    await catalog.install(ctx, parsed, manifest.text.encode())
    report(Progress(status="success"))


async def _manifest(remote: Remote, tag: str) -> Manifest:
    with _as_ollama_says():
        url = remote.base / "manifests" / tag
        return manifests.parse(await remote.fetch(url, LARGEST_MANIFEST_BYTES, {"Accept": MANIFEST_TYPE}))


def _blobs(manifest: Manifest) -> list[Blob]:
    """Each once; the config last."""
    config, *layers = manifest.layers
    return list({layer.blob.digest: layer.blob for layer in (*layers, config)}.values())


async def _fetch(ctx: Context, remote: Remote, blob: Blob, report: Report) -> None:
    status = f"pulling {blob.digest.removeprefix('sha256:')[:12]}"

    def on_progress(completed: int) -> None:
        report(Progress(status=status, digest=blob.digest, total=blob.size, completed=completed))

    if await holdings.renew(ctx, blob.digest) is None:
        owner = Owner(actor.current().organization_id, lambda: holdings.find(ctx, blob.digest))
        with _missing_layers_explained(blob):
            await ctx.downloads.fetch(remote, blob, on_progress, owner)
        await holdings.brought(ctx, blob)
    on_progress(blob.size)


@contextmanager
def _as_ollama_says() -> Iterator[None]:
    try:
        yield
    except Forbidden:
        raise
    except ServiceError as error:
        raise ServiceError(f"pull model manifest: {error.message}") from error


@contextmanager
def _missing_layers_explained(blob: Blob) -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise ServiceError(f"pull {blob.digest}: {error.message}") from error
