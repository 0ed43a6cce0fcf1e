"""Auth on a real database, asked over the bus as the gateway asks it."""

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from pydantic import SecretStr

from libs.common.bus.base import Bus, Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.auth import KeyRevoked
from libs.common.database import Database
from services.auth import identities, store
from services.auth.context import Context
from services.auth.handlers import handlers
from services.auth.passwords import Passwords
from services.auth.settings import Settings
from services.auth.signing import open_signer

EMAIL, PASSWORD = "Admin@Localhost", "correct horse"


def settings(**changes: object) -> Settings:
    defaults: dict[str, object] = {
        "secret_key": SecretStr(base64.b64encode(bytes(32)).decode()),
        "admin_email": EMAIL,
        "admin_password": SecretStr(PASSWORD),
        "bcrypt_rounds": 4,
        "max_keys_per_user": 3,
    }
    return Settings.model_validate(defaults | changes)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def ctx(auth_db: Database, broker: MemoryBroker) -> AsyncIterator[Context]:
    """Auth, up and listening, with its first admin."""
    chosen = settings()
    async with MemoryBus.open(broker, "auth", "a1") as bus:
        ctx = Context(
            settings=chosen,
            db=auth_db,
            bus=bus,
            passwords=await Passwords.open(chosen.bcrypt_rounds),
            signer=await open_signer(auth_db, chosen.sealing_key(), chosen.token_seconds),
        )
        await identities.create_first_admin(ctx)
        await bus.subscribe(handlers, ctx)
        yield ctx


@pytest.fixture
async def revoked(broker: MemoryBroker) -> AsyncIterator[list[str]]:
    """Digests that were announced as revoked."""
    digests: list[str] = []
    listening = Handlers("gateway")

    @listening.on(KeyRevoked, every_replica=True)
    async def key_revoked(event: KeyRevoked, _ctx: object) -> None:
        digests.append(event.digest)

    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(MemoryBus.open(broker, "gateway", "listener"))
        await bus.subscribe(listening, None)
        yield digests


@pytest.fixture
async def bus(broker: MemoryBroker, ctx: Context) -> AsyncIterator[Bus]:
    """The gateway's."""
    async with MemoryBus.open(broker, "gateway", "g1") as bus:
        yield bus


@pytest.fixture
async def admin(ctx: Context) -> store.User:
    async with ctx.db.transaction() as tx:
        user = await store.credentials_of(tx, EMAIL.lower())
    assert user is not None
    return user
