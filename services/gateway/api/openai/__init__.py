"""OpenAI's dialect."""

from starlette.routing import Route

from libs.common.contracts.permissions import Permission
from services.gateway.api.door import Body, Door, Handler
from services.gateway.api.openai import batches, files, models, not_here
from services.gateway.api.openai.chat import chat_completions
from services.gateway.api.openai.completions import completions
from services.gateway.api.openai.embeddings import embeddings
from services.gateway.api.openai.errors import OPENAI
from services.gateway.api.openai.rerank import rerank
from services.gateway.api.openai.responses import create as responses
from services.gateway.api.openai.responses import stored


def _route(
    method: str,
    path: str,
    handler: Handler,
    body: Body = Body.NONE,
    permission: Permission = Permission.INFERENCE_RUN,
    *,
    downloads: bool = False,
) -> Route:
    door = Door(handler, OPENAI, permission, body, downloads=downloads)
    route = Route(path, door, methods=[method])
    route.methods = {method}
    return route


routes = [
    _route("POST", "/v1/chat/completions", chat_completions, Body.JSON),
    _route("POST", "/v1/completions", completions, Body.JSON),
    _route("POST", "/v1/embeddings", embeddings, Body.JSON),
    _route("GET", "/v1/models", models.listed, permission=Permission.MODEL_READ),
    _route("GET", "/v1/models/{name:path}", models.one, permission=Permission.MODEL_READ),
    _route("POST", "/v1/responses", responses.create, Body.JSON),
    _route("POST", "/v1/responses/input_tokens", responses.input_tokens, Body.JSON),
    _route("GET", "/v1/responses/{response_id}", stored.retrieve, downloads=True),
    _route("DELETE", "/v1/responses/{response_id}", stored.delete),
    _route("POST", "/v1/responses/{response_id}/cancel", stored.cancel),
    _route("GET", "/v1/responses/{response_id}/input_items", stored.input_items),
    _route("POST", "/v1/rerank", rerank, Body.JSON),
    *(_route("POST", path, not_here.refuse) for path in not_here.PATHS),
    _route("POST", "/v1/files", files.upload, Body.STREAM),
    _route("GET", "/v1/files", files.listed),
    _route("GET", "/v1/files/{file_id}", files.one),
    _route("GET", "/v1/files/{file_id}/content", files.content, downloads=True),
    _route("DELETE", "/v1/files/{file_id}", files.delete),
    _route("POST", "/v1/batches", batches.create, Body.JSON),
    _route("GET", "/v1/batches", batches.listed),
    _route("GET", "/v1/batches/{batch_id}", batches.one),
    _route("POST", "/v1/batches/{batch_id}/cancel", batches.cancel),
]
