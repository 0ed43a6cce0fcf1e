"""GET /api/tags, GET /api/ps, POST /api/show"""

import time
from contextlib import suppress
from typing import Any

from starlette.responses import Response

from libs.common.contracts.gateway import HeartbeatRequested
from libs.common.contracts.registry import DescribeModel, ListModels, ModelDescription, ModelSummary
from libs.common.contracts.worker import LoadedModel
from libs.common.errors import InvalidModelName, InvalidRequest, ModelNotFound, Unavailable
from services.gateway.api.door import Call
from services.gateway.api.json_body import Fields
from services.gateway.api.ollama.modelfile import modelfile, parameter_lines
from services.gateway.api.ollama.wire import FOREVER_SECONDS, JsonAnswer, details_of, local_time
from services.gateway.models import LONGEST_NAME, REMOTE_DETAILS, display_name, local_name, seen_name
from services.gateway.permissions import may_see

USUAL_SECONDS = 5.0
READING_A_FILE_SECONDS = 60.0
"""A vocabulary of some hundred thousand tokens takes a busy registry many seconds."""


async def tags(call: Call) -> Response:
    models = await call.ctx.bus.ask(ListModels())
    return JsonAnswer({"models": [_summary(model) for model in models if may_see(call.caller, model.name)]})


def _summary(model: ModelSummary) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": local_time(model.modified_at),
        "size": model.size,
        "digest": model.digest,
        "details": details_of(model.details),
        "capabilities": list(model.capabilities),
    }


async def ps(call: Call) -> Response:
    bus = call.ctx.bus
    with suppress(Unavailable):  # without a broker what is known is all there is
        await call.ctx.cluster.poll(lambda mark: bus.publish(HeartbeatRequested(mark=mark)))
    return JsonAnswer({"models": [_loaded(model) for model in call.ctx.cluster.loaded(time.monotonic(), call.caller)]})


def _loaded(model: LoadedModel) -> dict[str, Any]:
    expires_at = time.time() + FOREVER_SECONDS if model.expires_at is None else model.expires_at
    name = display_name(model.name)  # that of a model without weights is its upstream's, which need not have a tag
    return {
        "name": name,
        "model": name,
        "size": model.size,
        "digest": model.digest,
        "details": details_of(model.details),
        "expires_at": local_time(expires_at),
        "size_vram": model.size_vram,
        "context_length": model.context_length,
    }


async def show(call: Call) -> Response:
    body = Fields(call.body, "ShowRequest")
    name, verbose, system = body.text("model") or body.text("name"), body.flag("verbose", False), body.text("system")
    if not name:
        raise InvalidRequest("model is required")
    model = await describe(call, name, verbose=verbose)
    info = model.model_info
    if call.headers.get("user-agent", "").startswith("GitHubCopilotChat/"):
        info = {**info, "general.basename": name}
    return JsonAnswer(_description(model, system or model.system, info))


async def describe(call: Call, name: str, *, verbose: bool = False) -> ModelDescription:
    """For the caller. Raises what ``seen_name`` raises, and ``InvalidModelName``."""
    if len(name) > LONGEST_NAME:
        raise InvalidModelName
    local = local_name(name, REMOTE_DETAILS)
    try:
        seen_name(call.caller, name, REMOTE_DETAILS)
        timeout = READING_A_FILE_SECONDS if verbose else USUAL_SECONDS
        return await call.ctx.bus.ask(DescribeModel(name=local, verbose=verbose), timeout=timeout)
    except ModelNotFound:
        raise ModelNotFound(f"model '{display_name(local)}' not found") from None


def _description(model: ModelDescription, system: str, info: dict[str, Any]) -> dict[str, Any]:
    optional = {
        "license": model.license,
        "parameters": parameter_lines(model.parameters),
        "template": model.template,
        "system": system,
        "messages": [message.model_dump(exclude_defaults=True) for message in model.messages],
        "projector_info": model.projector_info,
        "tensors": list(model.tensors),
        "requires": model.requires,
    }
    return {
        "modelfile": modelfile(model, system),
        **{key: value for key, value in optional.items() if value},
        "details": details_of(model.details),
        "model_info": info,
        "capabilities": list(model.capabilities),
        "modified_at": local_time(model.modified_at),
    }
