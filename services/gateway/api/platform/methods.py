"""HEAD is GET without its body; what a path does not answer to is refused with what it does."""

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """The server leaves out the body itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


def allowed(app: FastAPI, path: str) -> str:
    """For the header ``Allow``: the methods of all routes of this path."""
    routes = (route for route in iter_route_contexts(app.routes) if route.methods and route.path_regex.match(path))
    methods = {method for route in routes for method in route.methods or ()}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set()) | {"OPTIONS"}))
