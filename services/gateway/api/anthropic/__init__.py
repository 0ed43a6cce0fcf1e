"""Anthropic's dialect: messages, and the models that answer them."""

from starlette.routing import Route

from libs.common.contracts.permissions import Permission
from services.gateway.api.anthropic import messages, models
from services.gateway.api.anthropic.errors import ANTHROPIC
from services.gateway.api.anthropic.models import OfItsClients
from services.gateway.api.door import Body, Door, Handler


def _post(path: str, handler: Handler) -> Route:
    return Route(path, Door(handler, ANTHROPIC, Permission.INFERENCE_RUN, Body.JSON), methods=["POST"])


def _get(path: str, handler: Handler) -> Route:
    return OfItsClients(path, Door(handler, ANTHROPIC, Permission.MODEL_READ, Body.NONE), methods=["GET"])


routes = [
    _post("/v1/messages", messages.create),
    _post("/v1/messages/count_tokens", messages.count_tokens),
    _get("/v1/models", models.listed),
    _get("/v1/models/{name:path}", models.one),
]
"""To be asked before OpenAI's, which has the models under the same paths."""
