"""Give a model of ours to another registry, to the host that its name says."""

from libs.common.contracts.registry import Progress
from libs.common.errors import InvalidModelName, ServiceError
from services.registry import catalog, names
from services.registry.blobs import Blob
from services.registry.context import Context
from services.registry.manifests import MANIFEST_TYPE, Layer, Manifest
from services.registry.names import DEFAULT_HOST, DEFAULT_NAMESPACE
from services.registry.progress import Report
from services.registry.transfer.remote import Remote, retrying
from services.registry.transfer.upload import Upload


async def push(ctx: Context, name: str, *, insecure: bool, report: Report) -> None:
    """Blobs that are there already are not sent.

    Raises ``InvalidModelName``, ``ModelNotFound``, ``Forbidden`` for a host that is not allowed and ``ServiceError``
    for whatever the other registry refuses.
    """
    parsed = names.parse(name)
    remote = ctx.remotes.repository(name, insecure=insecure)
    report(Progress(status="retrieving manifest"))
    manifest = await catalog.find_manifest(ctx, name)
    if (parsed.host, parsed.namespace) == (DEFAULT_HOST, DEFAULT_NAMESPACE):
        # Ollama's command line knows the first words, and says that the name needs a namespace.
        raise ServiceError("unauthorized: access denied: the name must say where to, as in host/namespace/model")
    config, *layers = manifest.layers
    for layer in (*layers, config):
        await _send(ctx, remote, layer.blob, _origin(layer, parsed.host), report)
    report(Progress(status="pushing manifest"))
    await _put_manifest(remote, parsed.tag, manifest)
    report(Progress(status="success"))


def _origin(layer: Layer, host: str) -> str:
    """The repository on the same host that the layer was taken from and may be mounted from, or nothing."""
    try:
        source = names.parse(layer.source)
    except InvalidModelName:
        return ""
    return f"{source.namespace}/{source.model}" if source.host == host else ""


async def _send(ctx: Context, remote: Remote, blob: Blob, origin: str, report: Report) -> None:
    status = f"pushing {blob.digest.removeprefix('sha256:')[:12]}"

    def on_progress(completed: int) -> None:
        report(Progress(status=status, digest=blob.digest, total=blob.size, completed=completed))

    on_progress(0)
    path, piece_bytes = ctx.blobs.path(blob.digest), ctx.settings.part_min_bytes
    await Upload(remote, blob, path, origin=origin, piece_bytes=piece_bytes, on_progress=on_progress).run()


async def _put_manifest(remote: Remote, tag: str, manifest: Manifest) -> None:
    content = manifest.text.encode()
    url, headers = remote.base / "manifests" / tag, {"Content-Type": MANIFEST_TYPE}
    async for attempt in retrying():
        with attempt:
            async with remote.request("PUT", url, headers=headers, body=lambda: content, patient=True):
                pass
