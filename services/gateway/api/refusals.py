"""Tells the audit log of callers with credentials of ours that were refused, whatever the dialect."""

from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libs.common.errors import Unauthenticated
from services.gateway.api.caller import credential
from services.gateway.context import Context
from services.gateway.identity import KEY_PREFIX, is_ours
from services.gateway.security_events import SecurityEvents

ACTIONS = {401: "credentials.refused", 403: "access.denied"}
SHOWN_CHARACTERS = len(KEY_PREFIX) + 6
"""Of a key: those that lists of keys show, too."""


class Refusals:
    def __init__(self, app: ASGIApp, ctx: Context) -> None:
        self._app = app
        self._events = SecurityEvents(ctx.bus, ctx.tasks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_tell(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in ACTIONS:
                self._tell(scope, message["status"])
            await send(message)

        await self._app(scope, receive, send_and_tell)

    def _tell(self, scope: Scope, status: int) -> None:
        given = None
        with suppress(Unauthenticated):
            given = credential(Headers(scope=scope))
        if given is None or not is_ours(given):
            return  # scanners and clients that have not logged in are no news
        shown = given[:SHOWN_CHARACTERS] if given.startswith(KEY_PREFIX) else "access token"
        self._events.tell(ACTIONS[status], f"{scope['method']} {scope['path']}", status=status, credential=shown)
