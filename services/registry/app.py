"""The registry as a value."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from libs.common.lifecycle import Runtime, Service
from services.registry import imports
from services.registry.api import router
from services.registry.context import Context, open_context
from services.registry.handlers import handlers
from services.registry.prune import prune_for_ever
from services.registry.settings import Settings


@asynccontextmanager
async def start(settings: Settings, runtime: Runtime) -> AsyncIterator[Context]:
    async with open_context(settings, runtime) as ctx:
        await imports.import_seeds(ctx)
        # Others' weights may take long to read, and nobody waits for them.
        runtime.tasks.start(imports.import_manifests(ctx), "import the directory's manifests")
        ctx.virtual_models.begin(lambda: ctx.bus.connections)
        yield ctx


async def drain(ctx: Context, seconds: float) -> None:
    """A pull may take hours: the next registry goes on with it."""
    await ctx.operations.hand_over(seconds)


service = Service(
    name="registry",
    settings=Settings,
    open_context=start,
    handlers=handlers,
    router=router,
    ready=lambda ctx: None if ctx.virtual_models.settled else "hears the workers first",
    background=(prune_for_ever,),
    drain=drain,
    uses_postgres=True,
)
