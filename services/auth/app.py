"""Auth as a value."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from libs.common.lifecycle import Runtime, Service
from services.auth import identities, keys, lockout, privacy, sealed, sessions
from services.auth.audit.upkeep import keep_up
from services.auth.context import Context, open_context
from services.auth.handlers import handlers
from services.auth.settings import Settings


@asynccontextmanager
async def start(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    async with open_context(settings, runtime) as ctx:
        await identities.create_first_admin(ctx)
        yield ctx
        await keys.report_use_now(ctx)


async def record_audit(ctx: Context) -> None:
    await ctx.audit.events.run()


async def write_ledger(ctx: Context) -> None:
    await ctx.ledger.run()


service = Service(
    name="auth",
    settings=Settings,
    open_context=start,
    handlers=handlers,
    background=(
        keys.report_use,
        record_audit,
        write_ledger,
        keep_up,
        identities.rotate_signing_keys,
        sessions.clean_up,
        lockout.prune,
        privacy.remind,
        sealed.seal_anew,
    ),
    uses_postgres=True,
)
