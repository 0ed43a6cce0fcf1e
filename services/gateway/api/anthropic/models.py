"""GET /v1/models and GET /v1/models/{name}, for who tells Anthropic's version; to others OpenAI's dialect answers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from libs.common.contracts.registry import ListModels, ModelSummary
from libs.common.errors import InvalidRequest
from services.gateway.api.door import Call
from services.gateway.api.ollama.models import describe
from services.gateway.api.openai.models import name_in_path
from services.gateway.api.openai.queries import read_limit, read_query
from services.gateway.api.openai.wire import json_answer
from services.gateway.permissions import may_see

USUAL_PAGE: Final = 20
LARGEST_PAGE: Final = 1000


class OfItsClients(Route):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if "anthropic-version" in Headers(scope=scope):
            return super().matches(scope)
        return Match.NONE, {}


async def listed(call: Call) -> Response:
    """Newest first."""
    query = read_query(call.scope, ("limit", "after_id", "before_id", "beta"))
    models = await call.ctx.bus.ask(ListModels())
    page, has_more = _page([model for model in models if may_see(call.caller, model.name)], query)
    shown = [_model(model.name, model.modified_at) for model in page]
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return json_answer({"data": shown, "has_more": has_more, **ends})


async def one(call: Call) -> Response:
    """The answer has the name as it was sent."""
    if not (name := name_in_path(call)):
        return await listed(call)
    model = await describe(call, name)
    return json_answer(_model(name, model.modified_at))


def _page(models: Sequence[ModelSummary], query: Mapping[str, str]) -> tuple[Sequence[ModelSummary], bool]:
    """Those before or after a name, at most ``limit``, and whether there are more on that side."""
    limit = read_limit(query, USUAL_PAGE, LARGEST_PAGE)
    if before := query.get("before_id"):
        earlier = models[: _place(models, before)]
        return earlier[-limit:], len(earlier) > limit
    later = models[_place(models, after) + 1 :] if (after := query.get("after_id")) else models
    return later[:limit], len(later) > limit


def _place(models: Sequence[ModelSummary], name: str) -> int:
    for place, model in enumerate(models):
        if model.name == name:
            return place
    raise InvalidRequest("there is no model of this id to begin at")


def _model(name: str, modified_at: float) -> dict[str, Any]:
    created_at = datetime.fromtimestamp(modified_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": created_at, "lifecycle": "active"}
