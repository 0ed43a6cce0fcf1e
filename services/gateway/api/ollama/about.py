"""GET /, /api/version, /api/status: what clients probe before anything else, without credentials."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from services.gateway.api.ollama.wire import JsonAnswer
from services.gateway.context import Context


async def home(_request: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def version(request: Request) -> Response:
    ctx: Context = request.app.state.context
    return JsonAnswer({"version": ctx.settings.ollama_version})


async def status(_request: Request) -> Response:
    return JsonAnswer({"cloud": {"disabled": True, "source": "config"}})
