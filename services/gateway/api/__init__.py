"""The public HTTP server: one folder per dialect, each with its own words for errors."""

from functools import partial

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from services.gateway.api import anthropic, health, ollama, openai, platform, v2
from services.gateway.api.guard import Guard
from services.gateway.api.platform.methods import HeadAsGet
from services.gateway.api.platform.openapi import PREFIX
from services.gateway.api.platform.small_bodies import SmallBodies
from services.gateway.api.refusals import Refusals
from services.gateway.context import Context


def create_app(ctx: Context) -> Starlette:
    rest = _platform_app(ctx)
    app = Starlette(
        routes=[
            *ollama.routes,
            *anthropic.routes,
            *openai.routes,
            *v2.routes,
            Route(f"{PREFIX}/{{rest:path}}", rest),
            Route("/health", rest, methods=["GET"]),
            Route("/health/{rest:path}", rest, methods=["GET"]),
        ],
        middleware=[Middleware(Guard, config=ctx.config), Middleware(Refusals, ctx=ctx)],
        exception_handlers={HTTPException: _plain_error},
    )
    app.state.context = ctx
    app.router.redirect_slashes = False
    app.router.default = partial(_unknown_path, rest)
    return app


def _platform_app(ctx: Context) -> FastAPI:
    app = platform.Application(openapi_url=None, redirect_slashes=False)
    app.state.context = ctx
    app.include_router(health.router(ctx))
    app.include_router(platform.router, prefix=PREFIX)
    app.add_middleware(SmallBodies)
    app.add_middleware(HeadAsGet)
    platform.add_error_handlers(app)
    return app


PLAIN_TEXTS = {404: "404 page not found", 405: "405 method not allowed"}


async def _plain_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = PLAIN_TEXTS.get(error.status_code, error.detail)
    return PlainTextResponse(text, error.status_code, headers=dict(error.headers or {}))


async def _unknown_path(rest: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
    """A trailing slash too many leads to the path without it; the platform answers for what is below its own path.

    Also for line breaks, which no route matches.
    """
    if f"{scope['path']}/".startswith(f"{PREFIX}/"):
        await rest(scope, receive, send)
        return
    path = scope["path"].rstrip("/")
    if path and path != scope["path"] and _is_known({**scope, "path": path}):
        query = scope["query_string"].decode("latin-1")
        status = 301 if scope["method"] == "GET" else 307
        await RedirectResponse(f"{path}?{query}" if query else path, status)(scope, receive, send)
        return
    raise HTTPException(404)


def _is_known(scope: Scope) -> bool:
    return any(route.matches(scope)[0] is not Match.NONE for route in scope["app"].routes)
