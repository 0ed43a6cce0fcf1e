"""What clients probe before anything else, without credentials; and what only Ollama's cloud could answer."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from libs.common.errors import Forbidden, Unauthenticated, Unavailable
from services.gateway.api.door import Call
from services.gateway.api.ollama.wire import JsonAnswer, render_error
from services.gateway.context import Context


async def home(_request: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def version(request: Request) -> Response:
    ctx: Context = request.app.state.context
    return JsonAnswer({"version": ctx.settings.ollama_version})


async def status(_request: Request) -> Response:
    return JsonAnswer({"cloud": {"disabled": True, "source": "config"}})


async def account(_request: Request) -> Response:
    """An account is one at ollama.com, which is never asked."""
    return render_error(Unavailable("account unavailable"))


async def sign_out(_request: Request) -> Response:
    return render_error(Unauthenticated("you are not currently signed in"))


async def recommendations(_request: Request) -> Response:
    return JsonAnswer({"recommendations": []})


async def web_search(_call: Call) -> Response:
    raise Forbidden("ollama cloud is disabled: web search is unavailable")


async def web_fetch(_call: Call) -> Response:
    raise Forbidden("ollama cloud is disabled: web fetch is unavailable")
