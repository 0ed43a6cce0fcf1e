"""The platform's bodies are small and JSON: anything larger is refused before it is parsed."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libs.common.errors import RequestCancelled, ServiceError
from libs.common.web import error_response
from services.gateway.api.json_body import read_body

LARGEST_BODY_BYTES = 64 * 1024

WITH_LONG_BODIES = ("/api/v1/inference/chat", "/api/v1/inference/generate")
"""Prompts and images: their door reads them, in its own bounds."""


class SmallBodies:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in WITH_LONG_BODIES:
            await self._app(scope, receive, send)
            return
        try:
            body = await read_body(receive, Headers(scope=scope), LARGEST_BODY_BYTES)
        except RequestCancelled:
            return  # the client went away while it sent its body
        except ServiceError as error:
            await error_response(error.code, error.message, error.status)(scope, receive, send)
            return
        unread: list[Message] = [{"type": "http.request", "body": body}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        # Whatever the client calls it, as on Ollama's routes: curl says that it is a form.
        others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        await self._app({**scope, "headers": [*others, (b"content-type", b"application/json")]}, replay, send)
