"""What only RabbitMQ can do to the bus: lose connections, restart, and keep dead letters for an operator."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from pydantic import SecretStr

from libs.common.bus import rabbit
from libs.common.bus.base import Ack, Delivery, Handlers
from libs.common.bus.dead_letters import list_dead, replay
from libs.common.bus.rabbit import RabbitBus
from libs.common.errors import ModelNotFound, Unavailable
from libs.common.settings import RabbitSettings
from tests.fixtures.buses import Member, RabbitWorld, eventually
from tests.fixtures.infra import EmbeddedServer
from tests.fixtures.shop import Order, Price, Restock, Seen, Sold, rename, restocker, shop


@pytest.fixture
async def world(rabbitmq_url: str) -> AsyncIterator[RabbitWorld]:
    rename()
    world = RabbitWorld(rabbitmq_url)
    yield world
    await world.close()


def everything(seen: Seen) -> Handlers:
    """A listener of every kind."""
    handlers = restocker(seen)

    @handlers.on(Price)
    async def price(query: Price, _: object) -> tuple[str, int]:
        return query.item, 1

    @handlers.on(Sold)
    async def pooled(event: Sold, _: object) -> None:
        seen.add(f"pooled {event.item}")

    @handlers.on(Sold, every_replica=True)
    async def each(event: Sold, _: object) -> None:
        seen.add(f"each {event.item}")

    return handlers


async def guild(world: RabbitWorld, seen: Seen) -> Member:
    handlers = Handlers(Order.owner)

    @handlers.on(Order)
    async def order(command: Order, _: object) -> None:
        seen.add(command.item)

    member = await world.open()
    await member.listen(handlers)
    return member


async def everything_works(owner: Member, sender: Member, seen: Seen) -> None:
    await eventually(lambda: owner.bus.connected and sender.bus.connected, 60)
    marker = uuid4().hex
    await sender.bus.send(Restock(item=marker))
    await sender.bus.publish(Sold(item=marker))
    assert await sender.bus.ask(Price(item=marker)) == (marker, 1)
    await eventually(lambda: {marker, f"pooled {marker}", f"each {marker}"} <= set(seen.items))


class TestLostConnections:
    async def test_everything_comes_back_by_itself(self, world: RabbitWorld) -> None:
        seen = Seen()
        owner, sender = await world.open(), await world.open()
        await owner.listen(everything(seen))
        await everything_works(owner, sender, seen)
        assert owner.bus.connections == 1
        for member in (owner, sender):
            member.kill()
        await eventually(lambda: not owner.bus.connected and not sender.bus.connected)
        for proxy in world.proxies.values():
            proxy.mend()
        await everything_works(owner, sender, seen)
        assert owner.bus.connections == 2

    async def test_a_silent_connection_is_given_up(self, world: RabbitWorld) -> None:
        world.heartbeat_seconds = 2
        seen = Seen()
        owner, sender = await world.open(), await world.open()
        await owner.listen(everything(seen))
        world.proxies[owner.instance].freeze()
        await eventually(lambda: not owner.bus.connected)
        world.proxies[owner.instance].mend()
        await everything_works(owner, sender, seen)

    async def test_what_a_frozen_process_holds_goes_to_the_stand_by(self, world: RabbitWorld) -> None:
        world.heartbeat_seconds = 2
        seen: dict[str, Seen] = {}
        members = [await world.open(), await world.open()]
        for member in members:
            handlers = shop()
            held = seen[member.instance] = Seen()

            @handlers.on(Restock, ack=Ack.MANUAL, single_active=True)
            async def restock(_: Restock, held: Seen, delivery: Delivery) -> None:
                held.add(delivery)

            await member.listen(handlers, held)
        active, stand_by = members
        await stand_by.bus.send(Restock(item="egg"))
        delivery = await seen[active.instance].next()
        world.proxies[active.instance].freeze()
        again = await seen[stand_by.instance].next()
        assert again.redelivered
        await again.ack()
        await eventually(lambda: delivery.lost)

    async def test_what_is_sent_meanwhile_arrives_afterwards(self, world: RabbitWorld) -> None:
        seen = Seen()
        owner, sender = await world.open(), await world.open()
        await owner.listen(restocker(seen))
        sender.kill()
        sending = asyncio.create_task(sender.bus.send(Restock(item="egg")))
        await eventually(lambda: not sender.bus.connected)
        world.proxies[sender.instance].mend()
        await sending
        assert await seen.next() == "egg"

    async def test_sending_is_given_up_in_the_end(self, world: RabbitWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rabbit, "PUBLISH_SECONDS", 0.2)
        owner, sender = await world.open(), await world.open()
        await owner.listen(restocker(Seen()))
        sender.kill()
        with pytest.raises(Unavailable, match="did not confirm"):
            await sender.bus.send(Restock(item="egg"))
        with pytest.raises(Unavailable):
            await sender.bus.ask(Price(item="egg"), timeout=0.2)

    async def test_an_asker_learns_at_once_that_no_answer_can_come(self, world: RabbitWorld) -> None:
        handlers, asked = shop(), asyncio.Event()

        @handlers.on(Price)
        async def price(query: Price, _: object) -> tuple[str, int]:
            asked.set()
            await asyncio.Event().wait()
            return query.item, 1

        owner, asker = await world.open(), await world.open()
        await owner.listen(handlers)
        before = time.monotonic()
        asking = asyncio.create_task(asker.bus.ask(Price(item="egg"), timeout=30))
        await asked.wait()
        asker.kill()
        with pytest.raises(Unavailable, match="lost"):
            await asking
        assert time.monotonic() - before < 10

    async def test_an_old_delivery_is_acknowledged_in_vain(self, world: RabbitWorld) -> None:
        handlers, deliveries = shop(), list[Delivery]()

        @handlers.on(Restock, ack=Ack.MANUAL)
        async def restock(_: Restock, __: object, delivery: Delivery) -> None:
            deliveries.append(delivery)

        owner, sender = await world.open(), await world.open()
        await owner.listen(handlers)
        await sender.bus.send(Restock(item="egg"))
        await eventually(lambda: len(deliveries) == 1)
        owner.kill()
        await eventually(lambda: not owner.bus.connected)
        await deliveries[0].ack()
        world.proxies[owner.instance].mend()
        await eventually(lambda: len(deliveries) == 2)
        assert deliveries[1].redelivered
        await deliveries[1].ack()

    async def test_a_lost_queue_is_declared_again(self, world: RabbitWorld) -> None:
        seen = Seen()
        owner, sender = await world.open(), await world.open()
        await owner.listen(restocker(seen))
        await world.delete_queue(Restock.wire_name)
        await eventually(lambda: owner.bus.connections == 2)
        await sender.bus.send(Restock(item="egg"))
        assert await seen.next() == "egg"

    async def test_a_member_that_drains_hears_events_again_but_takes_no_work(self, world: RabbitWorld) -> None:
        seen = Seen()
        member, sender = await world.open(), await world.open()
        await member.listen(everything(seen))
        await member.bus.stop_consuming()
        member.kill()
        world.proxies[member.instance].mend()
        await eventually(lambda: member.bus.connections == 2)
        await sender.bus.send(Restock(item="egg"))
        await sender.bus.publish(Sold(item="egg"))
        assert await seen.next() == "each egg"
        await member.close()
        assert seen.items == ["each egg"]


class TestStart:
    async def test_waits_for_the_broker(self, world: RabbitWorld) -> None:
        async with world.proxy().running() as proxy, AsyncExitStack() as stack:
            proxy.cut()
            opening = asyncio.create_task(stack.enter_async_context(RabbitBus.open(world.through(proxy), "shop", "1")))
            await eventually(lambda: proxy.refused > 0)
            proxy.mend()
            assert (await opening).connected

    async def test_says_why_it_gave_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rabbit, "START_SECONDS", 0.3)
        settings = RabbitSettings(url=SecretStr("amqp://guest:secret@127.0.0.1:1/"))
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: AMQPConnectionError") as raised:
            async with RabbitBus.open(settings, "shop", "1"):
                pass
        assert "secret" not in str(raised.value)


@pytest.mark.chaos
async def test_a_broker_restart_loses_nothing(embedded_rabbitmq: EmbeddedServer, world: RabbitWorld) -> None:
    seen = Seen()
    owner, sender = await world.open(), await world.open()
    await owner.listen(everything(seen))
    await everything_works(owner, sender, seen)
    await (await guild(world, Seen())).close()
    await sender.bus.send(Order(item="sword"))
    await asyncio.to_thread(embedded_rabbitmq.restart)
    await everything_works(owner, sender, seen)
    ordered = Seen()
    await guild(world, ordered)
    assert await ordered.next() == "sword"


class TestDeadLetters:
    async def bury(self, world: RabbitWorld, items: list[str]) -> tuple[Member, Seen]:
        """A shop that refuses eggs, once."""
        handlers, seen = shop(), Seen()

        @handlers.on(Restock, prefetch=1)
        async def restock(command: Restock, _: object) -> None:
            seen.add(command.item)
            if seen.items.count(command.item) == 1:
                raise ModelNotFound(f"no {command.item}")

        owner = await world.open()
        await owner.listen(handlers)
        for item in items:
            await owner.bus.send(Restock(item=item), message_id=f"{item} {Restock.owner}", deadline=time.time() + 60)
        for item in items:
            await world.until_dead(f"{item} {Restock.owner}")
        return owner, seen

    async def test_looking_neither_loses_nor_reorders(self, world: RabbitWorld) -> None:
        items = [f"egg{number}" for number in range(5)]
        await self.bury(world, items)
        looks = []
        for _ in range(3):
            letters = [letter for letter in await list_dead(world.url) if letter.queue == Restock.wire_name]
            looks.append([letter.message_id for letter in letters])
        # They were handled at the same time, so they died in any order; that order stays.
        assert sorted(looks[0]) == [f"{item} {Restock.owner}" for item in items]
        assert looks[1] == looks[0]
        assert looks[2] == looks[0]
        egg0 = next(letter for letter in letters if letter.message_id.startswith("egg0"))
        assert egg0.reason == "failed"
        assert egg0.error == "model_not_found: no egg0"
        assert egg0.type == Restock.wire_name

    async def test_replay_sends_them_back_to_their_queue(self, world: RabbitWorld) -> None:
        _, seen = await self.bury(world, ["egg", "hen"])
        replayed, homeless = await replay(world.url, queue=Restock.wire_name)
        assert (len(replayed), homeless) == (2, 0)
        await eventually(lambda: seen.items == ["egg", "hen", "egg", "hen"])
        assert not {f"egg {Restock.owner}", f"hen {Restock.owner}"} & set(await world.dead())

    async def test_those_without_a_queue_stay(self, world: RabbitWorld) -> None:
        owner, _ = await self.bury(world, ["egg"])
        await owner.close()
        await world.delete_queue(Restock.wire_name)
        assert await replay(world.url, queue=Restock.wire_name) == ([], 1)
        assert f"egg {Restock.owner}" in await world.dead()
