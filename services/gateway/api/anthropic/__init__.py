"""Anthropic's dialect: messages."""

from starlette.routing import Route

from libs.common.contracts.permissions import Permission
from services.gateway.api.anthropic import messages
from services.gateway.api.anthropic.errors import ANTHROPIC
from services.gateway.api.door import Body, Door, Handler


def _route(path: str, handler: Handler) -> Route:
    return Route(path, Door(handler, ANTHROPIC, Permission.INFERENCE_RUN, Body.JSON), methods=["POST"])


routes = [
    _route("/v1/messages", messages.create),
    _route("/v1/messages/count_tokens", messages.count_tokens),
]
