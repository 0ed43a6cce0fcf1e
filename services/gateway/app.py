"""The gateway as a value."""

from starlette.types import ASGIApp

from libs.common.lifecycle import Service
from services.gateway.api import create_app
from services.gateway.context import Context, open_context
from services.gateway.handlers import handlers
from services.gateway.settings import Settings


def public_app(ctx: Context) -> tuple[ASGIApp, str, int]:
    return create_app(ctx), ctx.settings.host, ctx.settings.port


async def drain(ctx: Context, _seconds: float) -> None:
    """Say so on the public health routes; the HTTP server itself lets running answers finish.

    They come through Redis, but reports of pulls, pushes and creates through the bus, which is silent from here on.
    """
    ctx.draining.set()
    ctx.operations.stop_following()


service = Service(
    name="gateway",
    settings=Settings,
    open_context=open_context,
    handlers=handlers,
    public_app=public_app,
    drain=drain,
    uses_postgres=True,
    uses_redis=True,
)
