"""A pull, push or create as Ollama's clients follow it: NDJSON lines, or the last of them."""

from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from libs.common.contracts.registry import CreateModel, Progress, PushModel
from libs.common.errors import ModelNotFound, ServiceError
from libs.common.telemetry import mark_current_failed
from services.gateway.api.door import Call
from services.gateway.api.ollama.wire import encode
from services.gateway.models import seen_name
from services.gateway.operations import Command, Operation


async def follow(call: Call, command: Command, *, stream: bool) -> Response:
    """What fails before there is anything to tell is answered with its own status."""
    operation = _pretended(call, command) or await call.ctx.operations.start(command)
    call.name_request(command.operation_id)
    lines = _lines(call, command.name, operation)
    if stream:
        try:
            return _ProgressAnswer(operation, await anext(lines, b""), lines)
        except BaseException:
            await operation.aclose()
            raise
    try:
        last = b"{}\n"
        async for line in lines:
            last = line
    finally:
        await operation.aclose()
    return Response(last[:-1], media_type="application/json")


def _pretended(call: Call, command: Command) -> Operation | None:
    """What becomes of a model that is nowhere, for one that the caller may not know of."""
    source = command.base if isinstance(command, CreateModel) else command.name
    try:
        if source:
            seen_name(call.caller, source)
    except ModelNotFound as error:
        if isinstance(command, PushModel):
            return call.ctx.operations.without_work(command, "retrieving manifest", error)
        nowhere = ServiceError("pull model manifest: file does not exist")
        return call.ctx.operations.without_work(command, "pulling manifest", nowhere)
    return None


async def _lines(call: Call, name: str, operation: Operation) -> AsyncIterator[bytes]:
    async for progress in operation:
        if progress.status == "success":
            # Who reads this and asks for the model next must find it as it is now.
            call.ctx.models.forget(name, call.caller.organization_id)
        yield encode(_without_zeros(progress)) + b"\n"


def _without_zeros(progress: Progress) -> dict[str, Any]:
    optional = {"digest": progress.digest, "total": progress.total, "completed": progress.completed}
    return {"status": progress.status, **{name: value for name, value in optional.items() if value}}


class _ProgressAnswer(Response):
    media_type = "application/x-ndjson"

    def __init__(self, operation: Operation, first: bytes, rest: AsyncIterator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._operation, self._first, self._rest = operation, first, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for line in self._rest_or_error():
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._operation.aclose()

    async def _rest_or_error(self) -> AsyncIterator[bytes]:
        try:
            async for line in self._rest:
                yield line
        except ServiceError as error:
            mark_current_failed(error.code)
            yield encode({"error": error.message}) + b"\n"
