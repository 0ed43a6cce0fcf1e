"""GET /v1/models and GET /v1/models/{name}"""

from typing import Any

from starlette.responses import Response

from libs.common.contracts.registry import ListModels
from services.gateway.api.door import Call
from services.gateway.api.ollama.models import describe
from services.gateway.api.openai.wire import json_answer
from services.gateway.models import display_name
from services.gateway.permissions import may_see


async def listed(call: Call) -> Response:
    """Newest first."""
    models = await call.ctx.bus.ask(ListModels())
    data = [_model(model.name, model.modified_at) for model in models if may_see(call.caller, model.name)]
    return json_answer({"object": "list", "data": data})


async def one(call: Call) -> Response:
    """The answer has the name as it was sent."""
    if not (name := name_in_path(call)):
        return await listed(call)
    model = await describe(call, name)
    return json_answer(_model(name, model.modified_at))


def name_in_path(call: Call) -> str:
    """It may have slashes and a tag, but does not end with a slash. Empty: none is named."""
    name: str = call.scope["path_params"]["name"]
    return name.rstrip("/")


def _model(name: str, modified_at: float) -> dict[str, Any]:
    """Owned by its namespace."""
    namespace = display_name(name).rpartition("/")[0].rpartition("/")[2]
    return {"id": name, "object": "model", "created": int(modified_at), "owned_by": namespace or "library"}
