"""/v1/batches"""

from typing import Any, Final

from starlette.responses import Response

from libs.common.errors import InvalidRequest
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.wire import JsonAnswer
from services.gateway.api.openai import wire
from services.gateway.api.openai.files import a_list, known_caller
from services.gateway.api.openai.queries import read_id, read_limit, read_query
from services.gateway.batches import batches
from services.gateway.store.batches import STATES, Batch

KNOWN: Final = {"input_file_id", "endpoint", "completion_window", "metadata"}
LISTED: Final = 20
MOST_LISTED: Final = 100


async def create(call: Call) -> Response:
    caller, body = known_caller(call), Fields(call.body, "BatchRequest")
    for name in call.body or {}:
        if name not in KNOWN and call.body[name] is not None:
            raise InvalidRequest(f"'{name[:50]}' is not supported here")
    batch = await batches.create(
        call.ctx,
        caller,
        input_file=read_id(body.text("input_file_id")),
        endpoint=body.text("endpoint"),
        window=body.text("completion_window"),
        metadata=wire.read_metadata(body),
    )
    return JsonAnswer(shown(batch))


async def listed(call: Call) -> Response:
    query = read_query(call.scope, {"after", "limit"})
    found, more = await batches.listed(
        call.ctx, known_caller(call), query.get("after"), read_limit(query, LISTED, MOST_LISTED)
    )
    return JsonAnswer(a_list([shown(batch) for batch in found], more=more))


async def one(call: Call) -> Response:
    return JsonAnswer(shown(await batches.find(call.ctx, known_caller(call), _id(call))))


async def cancel(call: Call) -> Response:
    return JsonAnswer(shown(await batches.cancel(call.ctx, known_caller(call), _id(call))))


def _id(call: Call) -> str:
    return read_id(call.scope["path_params"]["batch_id"])


def shown(batch: Batch) -> dict[str, Any]:
    times = {f"{state}_at": getattr(batch, f"{state}_at") for state in STATES}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **{name: None if time is None else int(time) for name, time in times.items()},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata or None,
    }
