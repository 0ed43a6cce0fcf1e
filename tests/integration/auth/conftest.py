"""Auth on a real database, asked over the bus as the gateway asks it."""

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from libs.common import actor, outbox
from libs.common.bus.base import Bus, Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.auth.audit import RecordAudit
from libs.common.contracts.auth.identity import IdentityChanged
from libs.common.contracts.message import Message
from libs.common.database import Database
from libs.common.runtime_config import RuntimeConfig
from services.auth import identities
from services.auth.audit.log import open_log
from services.auth.context import Context
from services.auth.handlers import handlers
from services.auth.ledger import open_ledger
from services.auth.passwords import Passwords
from services.auth.settings import Settings
from services.auth.signing import Signer
from services.auth.store import users as user_store

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
            config=RuntimeConfig(chosen),
            db=auth_db,
            bus=bus,
            passwords=await Passwords.open(chosen.bcrypt_rounds),
            signer=await Signer.open(auth_db, chosen.sealing(), chosen.signing_key_days),
            audit=await open_log(auth_db, chosen.sealing()),
            sealing=chosen.sealing(),
            ledger=open_ledger(auth_db),
        )
        await identities.create_first_admin(ctx)
        await bus.subscribe(handlers, ctx)
        yield ctx


@pytest.fixture
async def left(auth_db: Database) -> AsyncIterator[list[Message]]:
    """What has left the outbox: to a broker of its own, where nobody else takes anything."""
    taken: list[Message] = []
    taking = Handlers("auth")

    @taking.on(RecordAudit)
    async def record_audit(command: RecordAudit, _ctx: object) -> None:
        taken.append(command)

    @taking.on(IdentityChanged)
    async def identity_changed(event: IdentityChanged, _ctx: object) -> None:
        taken.append(event)

    async with MemoryBus.open(MemoryBroker(), "auth", "relay") as bus:
        await bus.subscribe(taking, None)
        sending = asyncio.create_task(outbox.relay(auth_db, bus, "auth"))
        yield taken
        sending.cancel()
        await asyncio.wait([sending])


@pytest.fixture
async def bus(broker: MemoryBroker, ctx: Context) -> AsyncIterator[Bus]:
    """The gateway's."""
    async with MemoryBus.open(broker, "gateway", "g1") as bus:
        yield bus


@pytest.fixture
async def admin(ctx: Context) -> user_store.User:
    async with ctx.db.transaction() as tx:
        user = await user_store.credentials_of(tx, EMAIL.lower())
    assert user is not None
    return user


def act_for(user: user_store.User) -> None:
    """As the gateway does, in the task that asks: fixtures have tasks of their own."""
    actor.become(actor.Actor(organization_id=user.organization_id, user_id=str(user.id)))
