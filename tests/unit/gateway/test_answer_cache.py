import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.common.errors import ModelNotFound, ServiceError, Unauthenticated, Unavailable
from libs.common.tasks import Tasks
from services.gateway.answer_cache import REFUSAL_SECONDS, RETRY_SECONDS, AnswerCache
from tests.fixtures.buses import eventually


class Owner:
    """The other service: answers when it is let, and counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: str | ServiceError = "yes"
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def ask(self) -> str:
        self.asked += 1
        await self.may_answer.wait()
        if isinstance(self.answer, ServiceError):
            raise self.answer
        return self.answer


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.era = 1
        self.tasks = Tasks()
        self.owner = Owner()
        self.cache: AnswerCache[str] = AnswerCache(
            self.tasks, fresh_seconds=60, usable_seconds=600, clock=lambda: self.now, era=lambda: self.era
        )

    async def get(self) -> str:
        return await self.cache.get("k", self.owner.ask)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.tasks.cancel_all()
    world.tasks.failed.cancel()


async def test_an_answer_is_asked_for_once_while_it_is_fresh(world: World) -> None:
    assert [await world.get(), await world.get()] == ["yes", "yes"]
    assert world.owner.asked == 1
    world.now = 60
    world.owner.answer = "changed"
    assert await world.get() == "changed"


async def test_those_who_ask_at_once_share_one_question(world: World) -> None:
    world.owner.may_answer.clear()
    waiting = [asyncio.create_task(world.get()) for _ in range(10)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    world.owner.may_answer.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == ["yes"] * 9
    assert world.owner.asked == 1


async def test_a_refusal_is_kept_for_a_moment_and_is_a_new_error_each_time(world: World) -> None:
    world.owner.answer = ModelNotFound("none")
    errors = []
    for _ in range(2):
        with pytest.raises(ModelNotFound, match="none") as refused:
            await world.get()
        errors.append(refused.value)
    assert errors[0] is not errors[1]
    assert world.owner.asked == 1
    world.now = REFUSAL_SECONDS
    world.owner.answer = "yes"
    assert await world.get() == "yes"


async def test_while_the_owner_is_away_known_answers_go_on_for_a_while(world: World) -> None:
    await world.get()
    world.owner.answer = Unavailable()
    world.now = 61
    assert await world.get() == "yes"
    assert await world.get() == "yes"
    assert world.owner.asked == 2, "not again at once"
    world.now += RETRY_SECONDS
    assert await world.get() == "yes"
    assert world.owner.asked == 3
    world.now = 601
    with pytest.raises(Unavailable):
        await world.get()


async def test_an_owner_that_is_away_is_asked_again_each_time_for_what_is_unknown(world: World) -> None:
    world.owner.answer = Unavailable()
    for asked in (1, 2):
        with pytest.raises(Unavailable):
            await world.get()
        assert world.owner.asked == asked


async def test_strangers_do_not_drive_out_who_is_known(world: World) -> None:
    cache: AnswerCache[str] = AnswerCache(world.tasks, size=3)
    await cache.get("known", world.owner.ask)
    world.owner.answer = Unauthenticated()
    for number in range(10):
        with pytest.raises(Unauthenticated):
            await cache.get(f"guess {number}", world.owner.ask)
    assert await cache.get("known", world.owner.ask) == "yes"
    cache.forget("known")
    with pytest.raises(Unauthenticated):
        await cache.get("known", world.owner.ask)


async def test_what_is_forgotten_is_asked_for_again(world: World) -> None:
    await world.get()
    world.cache.forget("k")
    world.owner.answer = ModelNotFound()
    with pytest.raises(ModelNotFound):
        await world.get()


async def test_an_answer_from_before_the_change_is_not_kept(world: World) -> None:
    world.owner.may_answer.clear()
    early = asyncio.create_task(world.get())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.cache.forget("k")
    world.owner.may_answer.set()
    assert await early == "yes"
    world.owner.answer = "changed"
    assert await world.get() == "changed"


async def test_after_lost_invalidations_known_answers_are_asked_for_again(world: World) -> None:
    await world.get()
    world.era += 1
    world.owner.answer = Unavailable()
    assert await world.get() == "yes", "the owner is away: better than nothing"
    assert world.owner.asked == 2
    world.era += 1
    world.owner.answer = ModelNotFound()
    with pytest.raises(ModelNotFound):
        await world.get()


async def test_an_answer_that_was_under_way_while_invalidations_were_lost_is_not_kept(world: World) -> None:
    world.owner.may_answer.clear()
    asking = asyncio.create_task(world.get())
    await eventually(lambda: world.owner.asked == 1)
    world.era += 1
    world.owner.may_answer.set()
    assert await asking == "yes"
    world.owner.answer = "changed"
    assert await world.get() == "changed"
