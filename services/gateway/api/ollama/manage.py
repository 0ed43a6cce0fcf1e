"""POST /api/create, /api/copy, /api/pull, /api/push; DELETE /api/delete"""

from uuid import uuid4

from starlette.responses import Response

from libs.common.contracts.registry import CopyModel, CreateModel, DeleteModel, PullModel, PushModel
from libs.common.errors import InvalidModelName, InvalidRequest, ModelNotFound
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.blobs import check_digest
from services.gateway.api.ollama.chat import read_messages
from services.gateway.api.ollama.progress import follow
from services.gateway.models import local_name, own_name, seen_name

ASK_SECONDS = 30.0
"""Copying and deleting may wait for somebody who is busy with the same layers."""

NOT_HERE = {"draft_files": "draft models", "remote_host": "remote models"}
"""Fields of create that ask for what there is none of here; left out or empty they ask for nothing."""


async def pull(call: Call) -> Response:
    body = Fields(call.body, "PullRequest")
    command = PullModel(operation_id=uuid4().hex, name=_name(body), insecure=body.flag("insecure", False))
    if not command.name:
        raise InvalidModelName
    return await follow(call, command, stream=body.flag("stream", True))


async def push(call: Call) -> Response:
    body = Fields(call.body, "PushRequest")
    command = PushModel(operation_id=uuid4().hex, name=_name(body), insecure=body.flag("insecure", False))
    if not command.name:
        raise InvalidRequest("model is required")
    return await follow(call, command, stream=body.flag("stream", True))


async def create(call: Call) -> Response:
    """What can be said without looking at a model is said here, the rest by the registry."""
    body = Fields(call.body, "CreateRequest")
    files, adapters = _files(body, "files"), _files(body, "adapters")
    command = CreateModel(
        operation_id=uuid4().hex,
        name=own_name(call.caller, _name(body)),
        base=local_name(body.text("from")),
        files=files,
        adapters=adapters,
        template=body.text("template") or None,
        system=body.text("system") or None,
        license=_license(body),
        parameters=body.mapping("parameters"),
        messages=read_messages(body),
        quantize=body.text("quantize") or body.text("quantization"),
        requires=body.text("requires"),
    )
    if not command.name:
        raise InvalidModelName
    for field, what in NOT_HERE.items():
        if body.raw(field):
            raise InvalidRequest(f"{what} are not supported")
    if not command.base and not files:
        given = body.raw("files") is not None
        raise InvalidRequest("no files provided to convert" if given else "neither 'from' or 'files' was specified")
    return await follow(call, command, stream=body.flag("stream", True))


async def copy(call: Call) -> Response:
    body = Fields(call.body, "CopyRequest")
    source, destination = local_name(body.text("source")), own_name(call.caller, body.text("destination"))
    try:
        seen_name(call.caller, source)
    except ModelNotFound:
        raise ModelNotFound(f'model "{source}" not found') from None
    await call.ctx.bus.ask(CopyModel(source=source, destination=destination), timeout=ASK_SECONDS)
    call.ctx.models.forget(destination, call.caller.organization_id)
    return Response()


async def delete(call: Call) -> Response:
    name = _name(Fields(call.body, "DeleteRequest"))
    if not name:
        raise InvalidRequest("model is required")
    await call.ctx.bus.ask(DeleteModel(name=seen_name(call.caller, name)), timeout=ASK_SECONDS)
    call.ctx.models.forget(name, call.caller.organization_id)
    return Response()


def _name(body: Fields) -> str:
    return local_name(body.text("model") or body.text("name"))


def _files(body: Fields, field: str) -> dict[str, str]:
    """Digests by path. The paths only tell the files apart, and are never opened."""
    files = body.texts_by_key(field)
    for path, digest in files.items():
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise InvalidRequest("file path must be relative")
        check_digest(digest)
    return files


def _license(body: Fields) -> tuple[str, ...]:
    """One text, or a list of them."""
    if isinstance(body.raw("license"), list):
        return body.texts("license")
    text = body.text("license")
    return (text,) if text else ()
