"""Ollama's own dialect, as its clients know it. Errors are ``{"error": "<text>"}``."""

from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from libs.common.contracts.permissions import Permission
from services.gateway.api.door import Body, Door, Handler
from services.gateway.api.ollama import blobs, manage
from services.gateway.api.ollama.about import (
    account,
    home,
    recommendations,
    sign_out,
    status,
    version,
    web_fetch,
    web_search,
)
from services.gateway.api.ollama.chat import chat
from services.gateway.api.ollama.embed import embed, embeddings
from services.gateway.api.ollama.generate import generate
from services.gateway.api.ollama.models import ps, show, tags
from services.gateway.api.ollama.rerank import rerank
from services.gateway.api.ollama.tokens import detokenize, tokenize
from services.gateway.api.ollama.wire import OLLAMA


def _get(path: str, endpoint: Callable[..., Any], *, head: bool) -> Route:
    route = Route(path, endpoint, methods=["GET"])
    route.methods = {"GET", "HEAD"} if head else {"GET"}
    return route


def _reading(handler: Handler) -> Door:
    return Door(handler, OLLAMA, Permission.MODEL_READ, Body.NONE)


def _post(path: str, handler: Handler, permission: Permission = Permission.INFERENCE_RUN) -> Route:
    return Route(path, Door(handler, OLLAMA, permission, Body.JSON), methods=["POST"])


def _managing(path: str, handler: Handler, method: str = "POST") -> Route:
    return Route(path, Door(handler, OLLAMA, Permission.MODEL_MANAGE, Body.JSON), methods=[method])


_UPLOAD = Door(blobs.upload, OLLAMA, Permission.MODEL_MANAGE, Body.STREAM)

routes = [
    _post("/api/chat", chat),
    _post("/api/generate", generate),
    _post("/api/embed", embed),
    _post("/api/embeddings", embeddings),
    _post("/api/tokenize", tokenize),
    _post("/api/detokenize", detokenize),
    _post("/api/rerank", rerank),
    _post("/api/show", show, Permission.MODEL_READ),
    _managing("/api/create", manage.create),
    _managing("/api/copy", manage.copy),
    _managing("/api/pull", manage.pull),
    _managing("/api/push", manage.push),
    _managing("/api/delete", manage.delete, "DELETE"),
    Route("/api/blobs/{digest}", _reading(blobs.is_there), methods=["HEAD"]),
    Route("/api/blobs/{digest}", _UPLOAD, methods=["POST"]),
    _get("/api/tags", _reading(tags), head=True),
    _get("/api/ps", _reading(ps), head=False),
    _get("/", home, head=True),
    _get("/api/version", version, head=True),
    _get("/api/status", status, head=False),
    Route("/api/me", account, methods=["POST"]),
    Route("/api/signout", sign_out, methods=["POST"]),
    Route("/api/user/keys/{key}", sign_out, methods=["DELETE"]),
    _get("/api/experimental/model-recommendations", recommendations, head=False),
    _post("/api/experimental/web_search", web_search),
    _post("/api/experimental/web_fetch", web_fetch),
]
