"""An answer of the registry's HTTP door on its way to the client, as it comes."""

from collections.abc import Iterable, Mapping

import aiohttp
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.gateway.api.connection import send_in_time

log = structlog.get_logger(__name__)


class RelayedAnswer(Response):
    """Passes on the status, these headers and the bytes; if either side stops for too long, the client sees it end."""

    def __init__(self, answer: aiohttp.ClientResponse, keep: Iterable[str], extra: Mapping[str, str]) -> None:
        super().__init__(status_code=answer.status)
        del self.headers["content-length"]
        self.headers.update({name: answer.headers[name] for name in keep if name in answer.headers})
        self.headers.update(extra)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._answer:
                await send_in_time(self, aiter(self._answer.content.iter_any()), send)
        except (aiohttp.ClientError, TimeoutError) as error:
            # The status was sent: an answer that ends before its announced length is all that can still be said.
            log.warning("a transfer from the registry broke off", path=scope["path"], error=repr(error))
