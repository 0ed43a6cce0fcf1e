"""The relay of staged messages: nothing that cannot leave is in the way of what can."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.common import actor, outbox
from libs.common.bus.base import Ack, Delivery, Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.auth.audit import RecordAudit
from libs.common.contracts.auth.identity import IdentityChanged
from libs.common.contracts.message import Command, Event
from libs.common.database import Database
from libs.common.errors import Unavailable
from libs.common.outbox import Relay
from tests.fixtures.buses import eventually


def command(name: str) -> RecordAudit:
    return RecordAudit(event_id=name, at=0, service="auth", action="thing.happened")


def event(name: str) -> IdentityChanged:
    return IdentityChanged(user_id=name)


async def stage(db: Database, *messages: Command | Event) -> None:
    async with db.transaction() as tx:
        for message in messages:
            await outbox.stage(tx, message)


async def stage_raw(db: Database, message: str, body: str) -> None:
    async with db.transaction() as tx:
        await tx.execute("insert into outbox (message, body) values (%s, %s::json)", [message, body])


async def left_behind(db: Database) -> list[tuple[str, str | None]]:
    async with db.transaction() as tx:
        rows = await tx.execute("select message, parked_because from outbox order by id")
        return [(message, why) for message, why in await rows.fetchall()]


def recorder(taken: list[str]) -> Handlers:
    """Of both kinds."""
    handlers = Handlers("auth")

    @handlers.on(RecordAudit)
    async def record_audit(message: RecordAudit, _ctx: object) -> None:
        taken.append(message.event_id)

    @handlers.on(IdentityChanged)
    async def identity_changed(message: IdentityChanged, _ctx: object) -> None:
        taken.append(message.user_id)

    return handlers


@pytest.fixture
def taken() -> list[str]:
    return []


@pytest.fixture
async def bus(taken: list[str]) -> AsyncIterator[MemoryBus]:
    async with MemoryBus.open(MemoryBroker(), "auth", "a1") as bus:
        await bus.subscribe(recorder(taken), None)
        yield bus


@pytest.fixture
async def relay(auth_db: Database, bus: MemoryBus) -> Relay:
    return Relay(auth_db, bus, "auth")


async def settled(relay: Relay, taken: list[str], expected: list[str]) -> None:
    while await relay.send_some():
        pass
    await eventually(lambda: taken == expected)


async def test_events_go_first(auth_db: Database, relay: Relay, taken: list[str]) -> None:
    await stage(auth_db, command("c1"), event("e1"), command("c2"), event("e2"))
    await settled(relay, taken, ["e1", "e2", "c1", "c2"])
    assert await left_behind(auth_db) == []


async def test_what_nobody_takes_waits_alone(auth_db: Database) -> None:
    taken: list[str] = []
    handlers = recorder(taken)
    handlers.subscriptions = [one for one in handlers.subscriptions if one.message is IdentityChanged]
    async with MemoryBus.open(MemoryBroker(), "auth", "a1") as bus:
        await bus.subscribe(handlers, None)
        relay = Relay(auth_db, bus, "auth")
        await stage(auth_db, command("c1"), command("c2"), event("e1"))
        await settled(relay, taken, ["e1"])
        await stage(auth_db, event("e2"))
        await settled(relay, taken, ["e1", "e2"])
        assert await left_behind(auth_db) == [("auth.RecordAudit", None)] * 2
        await bus.subscribe(recorder(taken), None)
        relay.waiting.clear()
        await settled(relay, taken, ["e1", "e2", "c1", "c2"])


async def test_what_is_no_message_is_parked(auth_db: Database, relay: Relay, taken: list[str]) -> None:
    await stage_raw(auth_db, "auth.RecordAudit", '{"event_id": "secret"}')
    await stage(auth_db, command("c"))
    await settled(relay, taken, ["c"])
    assert await left_behind(auth_db) == [("auth.RecordAudit", "no longer a valid message")]
    async with auth_db.transaction() as tx:
        await tx.execute(
            "update outbox set parked_because = null, body = %s::json", [command("mended").model_dump_json()]
        )
    await settled(relay, taken, ["c", "mended"])


async def test_what_is_too_large_for_the_bus_is_parked(auth_db: Database, relay: Relay, taken: list[str]) -> None:
    await stage(auth_db, event("x" * 17_000_000), event("small"))
    await settled(relay, taken, ["small"])
    ((message, why),) = await left_behind(auth_db)
    assert message == "auth.IdentityChanged"
    assert why is not None


async def test_a_class_of_a_newer_version_is_left_to_it(auth_db: Database, relay: Relay, taken: list[str]) -> None:
    await stage_raw(auth_db, "auth.FromTheFuture", "{}")
    await stage(auth_db, command("c"))
    await settled(relay, taken, ["c"])
    assert await left_behind(auth_db) == [("auth.FromTheFuture", None)]


async def test_while_the_broker_is_away_all_wait_unclaimed(auth_db: Database, bus: MemoryBus, taken: list[str]) -> None:
    relay = Relay(auth_db, bus, "auth")
    await stage(auth_db, command("c"), event("e"))
    set_connected(bus, False)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await relay.send_some()
    set_connected(bus, True)
    await settled(relay, taken, ["e", "c"])


def set_connected(bus: MemoryBus, connected: bool) -> None:
    bus._transport.connected = connected  # type: ignore[misc]


async def test_what_a_killed_relay_had_claimed_leaves_later(auth_db: Database, relay: Relay, taken: list[str]) -> None:
    await stage(auth_db, event("e"))
    async with auth_db.transaction() as tx:
        await tx.execute("update outbox set claimed_until = now() + interval '30 s'")
    assert await relay.send_some() == 0
    async with auth_db.transaction() as tx:
        await tx.execute("update outbox set claimed_until = now() - interval '1 s'")
    await settled(relay, taken, ["e"])


async def test_two_relays_share_the_work(auth_db: Database, bus: MemoryBus, taken: list[str]) -> None:
    names = [f"c{number:04}" for number in range(1000)]
    await stage(auth_db, *map(command, names))
    relays = [Relay(auth_db, bus, "auth") for _ in range(2)]

    async def drain(relay: Relay) -> int:
        total = 0
        while sent := await relay.send_some():
            total += sent
        return total

    shares = await asyncio.gather(*map(drain, relays))
    assert sum(shares) == 1000
    await eventually(lambda: len(taken) == 1000)
    assert sorted(taken) == names
    assert await left_behind(auth_db) == []


async def test_handlers_act_for_whom_staged_it(auth_db: Database) -> None:
    seen: list[actor.Actor] = []
    handlers = Handlers("auth")

    @handlers.on(IdentityChanged)
    async def identity_changed(_message: IdentityChanged, _ctx: object) -> None:
        seen.append(actor.current())

    who = actor.Actor(organization_id="acme", user_id="u", ip="::1")
    async with MemoryBus.open(MemoryBroker(), "auth", "a1") as bus:
        await bus.subscribe(handlers, None)
        actor.become(who)
        await stage(auth_db, event("theirs"))
        actor.become(actor.SYSTEM)
        await stage(auth_db, event("ours"))
        await Relay(auth_db, bus, "auth").send_some()
        await eventually(lambda: seen == [who, actor.SYSTEM])


async def test_message_ids_are_of_the_schema_too(auth_db: Database) -> None:
    ids: list[str] = []
    handlers = Handlers("auth")

    @handlers.on(RecordAudit, ack=Ack.MANUAL)
    async def record_audit(_message: RecordAudit, _ctx: object, delivery: Delivery) -> None:
        ids.append(delivery.message_id)
        await delivery.ack()

    async with MemoryBus.open(MemoryBroker(), "auth", "a1") as bus:
        await bus.subscribe(handlers, None)
        await stage(auth_db, command("c"))
        await Relay(auth_db, bus, "auth").send_some()
        await eventually(lambda: ids == ["outbox-auth-1"])
