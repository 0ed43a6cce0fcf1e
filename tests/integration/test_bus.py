"""One suite for both buses: what it says of RabbitMQ is true of memory, so that unit tests may trust it."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from libs.common.bus.base import Ack, Delivery, Handlers
from libs.common.errors import InvalidRequest, ModelNotFound, ServiceError, TooLarge, Unavailable
from libs.common.telemetry import as_current, current_traceparent
from tests.fixtures.buses import Member, MemoryWorld, RabbitWorld, World, eventually
from tests.fixtures.shop import Job, OldRestock, Order, Price, Restock, Seen, Sold, rename, restocker, shop


@pytest.fixture(params=["memory", "rabbit"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    rename()
    world = MemoryWorld() if request.param == "memory" else RabbitWorld(request.getfixturevalue("rabbitmq_url"))
    yield world
    await world.close()


class TestQueries:
    async def test_has_one_answer_of_its_own_type(self, world: World) -> None:
        handlers = shop()

        @handlers.on(Price)
        async def price(query: Price, prices: dict[str, int]) -> tuple[str, int]:
            return query.item, prices[query.item]

        owner, asker = await world.open(), await world.open()
        await owner.listen(handlers, {"egg": 3})
        assert await asker.bus.ask(Price(item="egg")) == ("egg", 3)

    async def test_raises_what_the_handler_raised(self, world: World) -> None:
        handlers = shop()

        @handlers.on(Price)
        async def price(query: Price, _: object) -> tuple[str, int]:
            if query.item == "secret":
                raise KeyError("do not tell")
            raise ModelNotFound(f"no {query.item}")

        member = await world.open()
        await member.listen(handlers)
        with pytest.raises(ModelNotFound, match="no egg"):
            await member.bus.ask(Price(item="egg"))
        with pytest.raises(ServiceError, match="internal error"):
            await member.bus.ask(Price(item="secret"))

    async def test_is_refused_at_once_when_nobody_could_answer(self, world: World) -> None:
        member = await world.open()
        before = time.monotonic()
        with pytest.raises(Unavailable, match="nobody takes"):
            await member.bus.ask(Price(item="egg"), timeout=30)
        assert time.monotonic() - before < 15

    async def test_is_not_begun_when_its_asker_has_given_up(self, world: World) -> None:
        handlers, seen, hold = shop(), Seen(), asyncio.Event()

        @handlers.on(Price, prefetch=1)
        async def price(query: Price, _: object) -> tuple[str, int]:
            seen.add(query.item)
            await hold.wait()
            return query.item, 1

        member = await world.open()
        await member.listen(handlers)
        first = asyncio.create_task(member.bus.ask(Price(item="first")))
        await seen.next()
        with pytest.raises(Unavailable, match="no answer"):
            await member.bus.ask(Price(item="late"), timeout=0.1)
        hold.set()
        await first
        await member.bus.ask(Price(item="last"))
        assert seen.items == ["first", "last"]

    async def test_what_is_too_large_is_refused_before_it_ends_the_connection(self, world: World) -> None:
        handlers = shop()

        @handlers.on(Price)
        async def price(query: Price, _: object) -> tuple[str, int]:
            return query.item * int(query.item), 1

        member = await world.open()
        await member.listen(handlers)
        with pytest.raises(TooLarge, match="Price has more than 16777216 bytes"):
            await member.bus.ask(Price(item="7" * (16 << 20)))
        with pytest.raises(TooLarge, match="Price has more"):
            await member.bus.ask(Price(item=str(16 << 20)))
        assert await member.bus.ask(Price(item="3")) == ("333", 1)

    async def test_that_cannot_be_read_is_an_invalid_request(self, world: World) -> None:
        handlers = shop()

        @handlers.on(Price)
        async def price(query: Price, _: object) -> tuple[str, int]:
            return query.item, 1

        member = await world.open()
        await member.listen(handlers)
        with pytest.raises(InvalidRequest, match="item"):
            await member.bus.ask(Price.model_construct())  # type: ignore[call-arg]  # an asker of another version


class TestCommands:
    async def test_is_done_once_by_one_replica(self, world: World) -> None:
        seen = Seen()
        for _ in range(2):
            await (await world.open()).listen(restocker(seen))
        sender = await world.open()
        for number in range(20):
            await sender.bus.send(Restock(item=str(number)))
        await eventually(lambda: len(seen.items) == 20)
        assert sorted(seen.items, key=int) == [str(n) for n in range(20)]

    async def test_waits_until_its_owner_is_back(self, world: World) -> None:
        seen = Seen()
        first = await world.open()
        await first.listen(restocker(seen))
        await first.close()
        await (await world.open()).bus.send(Restock(item="egg"))
        await (await world.open()).listen(restocker(seen))
        assert await seen.next() == "egg"

    async def test_is_refused_when_it_has_no_owner(self, world: World) -> None:
        sender = await world.open()
        with pytest.raises(Unavailable, match="nobody takes"):
            await sender.bus.send(Restock(item="egg"))
        with pytest.raises(Unavailable, match="nobody takes"):
            await sender.bus.send(Job(item="egg"), to="nobody")

    async def test_is_tried_again_when_that_can_help(self, world: World) -> None:
        handlers, seen = shop(), Seen()

        @handlers.on(Restock, ack=Ack.MANUAL)
        async def restock(_: Restock, __: object, delivery: Delivery) -> None:
            seen.add((delivery.message_id, delivery.attempt))
            if delivery.attempt < 3:
                raise Unavailable
            await delivery.ack()

        member = await world.open()
        await member.listen(handlers)
        await member.bus.send(Restock(item="egg"), message_id="m1")
        assert [await seen.next() for _ in range(3)] == [("m1", 1), ("m1", 2), ("m1", 3)]

    @pytest.mark.parametrize(
        ("error", "reason"),
        [(Unavailable(), "exhausted"), (ModelNotFound(), "failed"), (KeyError("x"), "crashed")],
    )
    async def test_is_buried_when_it_cannot_be_done(self, world: World, error: Exception, reason: str) -> None:
        handlers, seen, message_id = shop(), Seen(), uuid4().hex

        @handlers.on(Restock)
        async def restock(command: Restock, _: object) -> None:
            seen.add(command.item)
            raise error

        member = await world.open()
        await member.listen(handlers)
        await member.bus.send(Restock(item="egg"), message_id=message_id)
        assert await world.until_dead(message_id) == reason
        assert len(seen.items) == (3 if reason == "exhausted" else 1)

    async def test_that_cannot_be_read_is_buried(self, world: World) -> None:
        seen, message_id = Seen(), uuid4().hex
        member = await world.open()
        await member.listen(restocker(seen))
        await member.bus.send(OldRestock(thing="egg"), message_id=message_id)
        assert await world.until_dead(message_id) == "undecodable"
        assert seen.items == []

    async def test_past_its_deadline_is_buried(self, world: World) -> None:
        seen, message_id = Seen(), uuid4().hex
        member = await world.open()
        await member.listen(restocker(seen))
        await member.bus.send(Restock(item="late"), message_id=message_id, deadline=time.time() - 1)
        await member.bus.send(Restock(item="early"), deadline=time.time() + 60)
        assert await world.until_dead(message_id) == "deadline"
        assert await seen.next() == "early"

    async def test_past_its_deadline_is_for_a_manual_handler_to_judge(self, world: World) -> None:
        handlers, seen = shop(), Seen()

        @handlers.on(Restock, ack=Ack.MANUAL)
        async def restock(command: Restock, _: object, delivery: Delivery) -> None:
            await delivery.ack()
            seen.add(command.item)

        member = await world.open()
        await member.listen(handlers)
        await member.bus.send(Restock(item="late"), deadline=time.time() - 1)
        assert await seen.next() == "late"

    async def test_held_by_hand_is_lost_with_its_connection(self, world: World) -> None:
        handlers, seen = shop(), Seen()

        @handlers.on(Restock, ack=Ack.MANUAL)
        async def restock(_: Restock, __: object, delivery: Delivery) -> None:
            seen.add(delivery)

        member, sender = await world.open(), await world.open()
        await member.listen(handlers)
        await sender.bus.send(Restock(item="egg"))
        delivery = await seen.next()
        assert not delivery.lost
        member.kill()
        await eventually(lambda: delivery.lost)

    async def test_held_by_hand_can_be_handed_back_or_rejected(self, world: World) -> None:
        handlers, seen, message_id = shop(), Seen(), uuid4().hex

        @handlers.on(Restock, ack=Ack.MANUAL)
        async def restock(_: Restock, __: object, delivery: Delivery) -> None:
            seen.add(delivery.redelivered)
            if not delivery.redelivered:
                await delivery.requeue()
            else:
                await delivery.reject("never liked it")
                await delivery.ack()

        member = await world.open()
        await member.listen(handlers)
        await member.bus.send(Restock(item="egg"), message_id=message_id)
        assert await world.until_dead(message_id) == "never liked it"
        assert seen.items == [False, True]

    async def test_no_more_than_prefetch_are_held(self, world: World) -> None:
        handlers, held = shop(), list[Delivery]()

        @handlers.on(Restock, ack=Ack.MANUAL, prefetch=2)
        async def restock(_: Restock, __: object, delivery: Delivery) -> None:
            held.append(delivery)

        member = await world.open()
        await member.listen(handlers)
        for number in range(4):
            await member.bus.send(Restock(item=str(number)))
        await eventually(lambda: len(held) == 2)
        await held[0].ack()
        await eventually(lambda: len(held) == 3)


class TestEvents:
    async def test_reaches_every_replica_or_one_of_each_service(self, world: World) -> None:
        seen = Seen()

        async def listen(service: str, replica: int) -> None:
            handlers = Handlers(service)

            @handlers.on(Sold, every_replica=True)
            async def each(event: Sold, _: object) -> None:
                seen.add(("each", service, replica, event.item))

            @handlers.on(Sold)
            async def pooled(event: Sold, _: object) -> None:
                seen.add(("pooled", service, 0, event.item))

            await (await world.open()).listen(handlers)

        services = f"books-{uuid4().hex[:6]}", f"stock-{uuid4().hex[:6]}"
        for service in services:
            for replica in range(2):
                await listen(service, replica)
        await (await world.open()).bus.publish(Sold(item="egg"))
        expected = {("pooled", service, 0, "egg") for service in services}
        expected |= {("each", service, replica, "egg") for service in services for replica in range(2)}
        assert {await seen.next() for _ in range(6)} == expected

    async def test_needs_no_listener(self, world: World) -> None:
        await (await world.open()).bus.publish(Sold(item="egg"))

    async def test_a_replicas_own_copy_is_tried_once(self, world: World) -> None:
        handlers, seen = shop(), Seen()

        @handlers.on(Sold, every_replica=True)
        async def sold(event: Sold, _: object) -> None:
            seen.add(event.item)
            if event.item == "bad":
                raise Unavailable

        member = await world.open()
        await member.listen(handlers)
        for item in ("bad", "good"):
            await member.bus.publish(Sold(item=item))
        assert [await seen.next(), await seen.next()] == ["bad", "good"]

    async def test_pooled_is_tried_again(self, world: World) -> None:
        handlers, seen = shop(), Seen()

        @handlers.on(Sold)
        async def sold(event: Sold, _: object) -> None:
            seen.add(event.item)
            if len(seen.items) == 1:
                raise Unavailable

        member = await world.open()
        await member.listen(handlers)
        await member.bus.publish(Sold(item="egg"))
        assert [await seen.next(), await seen.next()] == ["egg", "egg"]


class TestSingleActiveConsumer:
    async def test_the_stand_by_gets_everything_the_dead_one_held_in_order(self, world: World) -> None:
        holding = {"first": list[str](), "second": list[str]()}

        async def hold(name: str) -> Member:
            handlers = shop()

            @handlers.on(Restock, ack=Ack.MANUAL, single_active=True, prefetch=100)
            async def restock(command: Restock, _: object, __: Delivery) -> None:
                holding[name].append(command.item)

            member = await world.open()
            await member.listen(handlers)
            return member

        first = await hold("first")
        await hold("second")
        sender = await world.open()
        sent = [str(number) for number in range(10)]
        for item in sent:
            await sender.bus.send(Restock(item=item))
        await eventually(lambda: holding["first"] == sent)
        assert holding["second"] == []
        first.kill()
        await eventually(lambda: holding["second"] == sent)


class TestLeases:
    """A job is unacknowledged while it runs; when it cannot be done, its order comes back to the guild."""

    async def guild(self, world: World) -> tuple[Member, Seen]:
        handlers, seen = Handlers(Order.owner), Seen()

        @handlers.on(Order, ack=Ack.MANUAL, single_active=True)
        async def order(command: Order, _: object, delivery: Delivery) -> None:
            await delivery.ack()
            seen.add(("order", command.item))

        @handlers.on(Job, ack=Ack.MANUAL)
        async def returned(command: Job, _: object, delivery: Delivery) -> None:
            await delivery.ack()
            seen.add(("returned", command.item))

        member = await world.open()
        await member.listen(handlers)
        return member, seen

    async def smith(self, world: World, refuse: str = "") -> tuple[Member, Seen]:
        handlers, seen = Handlers(Job.owner), Seen()

        @handlers.on(Job, ack=Ack.MANUAL)
        async def job(command: Job, _: object, delivery: Delivery) -> None:
            seen.add((command.item, delivery))
            if refuse == "requeue":
                await delivery.requeue()
            elif refuse == "crash":
                raise KeyError(command.item)

        member = await world.open()
        await member.listen(handlers)
        return member, seen

    async def test_returns_when_its_holder_dies(self, world: World) -> None:
        guild, at_guild = await self.guild(world)
        smith, at_smith = await self.smith(world)
        await guild.bus.send(Order(item="sword"))
        assert await at_guild.next() == ("order", "sword")
        await guild.bus.send(Job(item="sword"), to=smith.instance)
        _, delivery = await at_smith.next()
        # As long as somebody holds it, it does not expire.
        await asyncio.sleep(Job.lease_ttl_seconds * 1.5)
        assert at_guild.items == [("order", "sword")]
        smith.kill()
        assert await at_guild.next() == ("returned", "sword")
        await delivery.ack()

    async def test_returns_when_nobody_takes_it(self, world: World) -> None:
        guild, at_guild = await self.guild(world)
        smith, at_smith = await self.smith(world)
        await smith.bus.stop_consuming()
        await guild.bus.send(Job(item="sword"), to=smith.instance)
        assert await at_guild.next() == ("returned", "sword")
        assert at_smith.items == []

    @pytest.mark.parametrize("refuse", ["requeue", "crash"])
    async def test_returns_when_it_is_refused(self, world: World, refuse: str) -> None:
        guild, at_guild = await self.guild(world)
        smith, at_smith = await self.smith(world, refuse)
        await guild.bus.send(Job(item="sword"), to=smith.instance)
        assert await at_guild.next() == ("returned", "sword")
        assert len(at_smith.items) == 1


class TestShutdown:
    async def test_drain_lets_running_work_finish_and_takes_no_more(self, world: World) -> None:
        handlers, seen, hold = shop(), Seen(), asyncio.Event()

        @handlers.on(Restock)
        async def restock(command: Restock, _: object) -> None:
            seen.add(command.item)
            await hold.wait()
            seen.add("finished")

        member, sender = await world.open(), await world.open()
        await member.listen(handlers)
        await sender.bus.send(Restock(item="running"))
        await seen.next()
        await member.bus.stop_consuming()
        await sender.bus.send(Restock(item="next"))
        draining = asyncio.create_task(member.bus.drain(10))
        hold.set()
        await draining
        assert seen.items == ["running", "finished"]
        await member.close()
        elsewhere = Seen()
        await (await world.open()).listen(restocker(elsewhere))
        assert await elsewhere.next() == "next"

    async def test_events_for_every_replica_are_heard_until_the_end_of_the_drain(self, world: World) -> None:
        handlers, every, shared = shop(), Seen(), Handlers("cellar" + uuid4().hex[:6])
        at_shared = Seen()

        @handlers.on(Sold, every_replica=True)
        async def hear(event: Sold, _: object) -> None:
            every.add(event.item)

        @shared.on(Sold)
        async def share(event: Sold, _: object) -> None:
            at_shared.add(event.item)

        member, sender = await world.open(), await world.open()
        await member.listen(handlers)
        await member.listen(shared)
        await sender.bus.publish(Sold(item="before"))
        assert (await every.next(), await at_shared.next()) == ("before", "before")
        await member.bus.stop_consuming()
        await sender.bus.publish(Sold(item="draining"))
        assert await every.next() == "draining"
        member.bus.stop_hearing()
        await sender.bus.publish(Sold(item="too late"))
        await member.close()
        assert every.items == ["before", "draining"]
        assert at_shared.items == ["before"]

    async def test_what_does_not_finish_goes_to_somebody_else(self, world: World) -> None:
        handlers, seen = shop(), Seen()

        @handlers.on(Restock)
        async def restock(command: Restock, _: object) -> None:
            seen.add(command.item)
            await asyncio.Event().wait()

        member = await world.open()
        await member.listen(handlers)
        await member.bus.send(Restock(item="egg"))
        await seen.next()
        await member.bus.stop_consuming()
        await member.bus.drain(0.01)
        await member.close()
        elsewhere = Seen()
        await (await world.open()).listen(restocker(elsewhere))
        assert await elsewhere.next() == "egg"


async def test_the_trace_goes_along(world: World) -> None:
    handlers, seen, trace_id = shop(), Seen(), "0af7651916cd43dd8448eb211c80319c"

    @handlers.on(Restock)
    async def restock(_: Restock, __: object) -> None:
        seen.add(current_traceparent())

    @handlers.on(Price)
    async def price(query: Price, _: object) -> tuple[str, int]:
        seen.add(current_traceparent())
        return query.item, 1

    member = await world.open()
    await member.listen(handlers)
    with as_current(f"00-{trace_id}-b7ad6b7169203331-01"):
        await member.bus.send(Restock(item="egg"))
        await member.bus.ask(Price(item="egg"))
    for _ in range(2):
        assert trace_id in await seen.next()
