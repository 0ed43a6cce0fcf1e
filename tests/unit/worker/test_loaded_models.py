import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.contracts.inference import EngineName, InferenceTask, ModelRef
from libs.common.errors import ModelLoadFailed
from services.worker.context_policy import ContextPolicy
from services.worker.engines.base import Embeddings, Engine, Finish, Job, LoadedEngine, LoadSpec, Piece, Ranks
from services.worker.loaded_models import TOO_LONG_SECONDS, Limits, LoadedModels
from services.worker.room import Bounds
from tests.fixtures.builders import a_model

GIB = 1 << 30


def a_named(name: str, **changes: Any) -> ModelRef:
    return a_model(**{"name": name, "weights": f"weights-of-{name}", **changes})


class FakeModel:
    size = 100
    size_vram = 0

    def __init__(self, spec: LoadSpec) -> None:
        self.context_length, self.slots, self.spec = spec.context_length, spec.slots, spec
        self.died: str | None = None
        self.closed = False

    def can_resume(self, job: Job) -> bool:
        return True

    async def generate(self, job: Job) -> AsyncGenerator[Piece | Finish, None]:
        yield Finish("stop", 1, 0, 1, 1)

    async def embed(self, task: InferenceTask) -> Embeddings:
        return Embeddings([], 0)

    async def rerank(self, task: InferenceTask) -> Ranks:
        return Ranks([], 0)

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        return []

    async def detokenize(self, ids: Sequence[int]) -> str:
        return ""

    def failure(self) -> str | None:
        return self.died

    async def close(self) -> None:
        self.closed = True


class FakeEngine:
    """Loads when ``may_load`` is set; remembers what it loaded."""

    name: EngineName = "echo"

    def __init__(self) -> None:
        self.loaded: list[FakeModel] = []
        self.failing = False
        self.longest = 1 << 30
        """Contexts beyond it fail to load."""

        self.may_load = asyncio.Event()
        self.may_load.set()

    async def load(self, spec: LoadSpec) -> LoadedEngine:
        await self.may_load.wait()
        if self.failing or spec.context_length > self.longest:
            raise ModelLoadFailed("no memory")
        self.loaded.append(FakeModel(spec))
        return self.loaded[-1]

    def names(self) -> list[str]:
        return [model.spec.model.name for model in self.loaded]


class NoWeights:
    async def fetch(self, digest: str, in_use: Callable[[], Collection[str]]) -> Path:
        return Path(digest)


class World:
    """Two places, two slots each, contexts of 100 to 1000 tokens, and a clock that stands still.

    All models have weights, as a context is nobody's business without.
    """

    def __init__(self) -> None:
        self.engine = FakeEngine()
        engines: dict[EngineName, Engine] = {"echo": self.engine}
        self.now = 1000.0
        self.changes = 0
        self.available = 10 * GIB
        bounds = Bounds(2, available=lambda: self.available)
        limits = Limits(bounds, 2, ContextPolicy(default=100, largest=1000), keep_alive_seconds=300)
        self.models = LoadedModels(engines, NoWeights(), limits, self._changed, lambda: self.now)

    def _changed(self) -> None:
        self.changes += 1

    async def touch(self, name: str, num_ctx: int = 0, keep_alive: float | None = None, size: int = 0) -> LoadedEngine:
        async with self.models.use(a_named(name, size=size), num_ctx) as loaded:
            if keep_alive is not None:
                self.models.keep(f"weights-of-{name}", keep_alive)
            return loaded

    def contexts(self) -> list[int]:
        """Of all loads so far."""
        return [model.context_length for model in self.engine.loaded]

    def resident(self) -> list[str]:
        return [model.name for model in self.models.snapshot()]


@pytest.fixture
async def world() -> World:
    return World()


async def until_blocked() -> None:
    """Let every task run as far as it can without an event from outside."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_load_however_many_wait(world: World) -> None:
    world.engine.may_load.clear()
    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(world.touch("a"))
        await until_blocked()
        world.engine.may_load.set()
    assert world.engine.names() == ["a"]


async def test_a_load_for_which_nobody_waits_any_more_is_kept(world: World) -> None:
    world.engine.may_load.clear()
    loading = asyncio.create_task(world.touch("a"))
    await until_blocked()
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    world.engine.may_load.set()
    await until_blocked()
    assert world.resident() == ["a"]
    await world.touch("a")
    assert world.engine.names() == ["a"], "who comes back finds it"


async def test_a_failed_load_reaches_everybody_and_is_tried_again(world: World) -> None:
    world.engine.failing = True
    results = await asyncio.gather(*(world.touch("a") for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["no memory"] * 3
    world.engine.failing = False
    await world.touch("a")
    assert world.resident() == ["a"]


async def test_a_cancelled_waiter_does_not_stop_the_load_of_the_others(world: World) -> None:
    world.engine.may_load.clear()
    impatient, patient = asyncio.create_task(world.touch("a")), asyncio.create_task(world.touch("a"))
    await until_blocked()
    impatient.cancel()
    world.engine.may_load.set()
    await patient
    assert world.engine.names() == ["a"]


async def test_slots_are_waited_for(world: World) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(world.models.use(a_named("a"), 0))
        async with world.models.use(a_named("a"), 0):
            third = asyncio.create_task(world.touch("a"))
            await until_blocked()
            assert not third.done()
            assert world.models.snapshot()[0].running == 2
        assert await third is first


async def test_the_model_idle_longest_makes_room(world: World) -> None:
    for name in ("a", "b", "a", "c"):
        world.now += 1
        await world.touch(name)
    assert world.resident() == ["a", "c"]
    assert [model.closed for model in world.engine.loaded] == [False, True, False]


async def test_a_model_in_use_is_not_evicted(world: World) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(world.models.use(a_named("a"), 0))
        async with world.models.use(a_named("b"), 0):
            waiting = asyncio.create_task(world.touch("c"))
            await until_blocked()
            assert world.resident() == ["a", "b"]
        await waiting
        assert world.resident() == ["a", "c"]


async def test_a_failed_load_lets_the_next_model_in(world: World) -> None:
    world.engine.may_load.clear()
    loads = [asyncio.create_task(world.touch(name)) for name in ("a", "b", "c")]
    await until_blocked()
    world.engine.failing = True
    world.engine.may_load.set()
    async with asyncio.timeout(30):
        results = await asyncio.gather(*loads, return_exceptions=True)
    assert [type(result) for result in results] == [ModelLoadFailed] * 3


async def test_memory_is_made_by_those_idle_longest_and_no_more_than_needed(world: World) -> None:
    world.available = 5 * GIB
    for name, size in (("a", GIB), ("b", 2 * GIB), ("c", 2 * GIB)):
        world.now += 1
        await world.touch(name, size=size)
    assert world.resident() == ["b", "c"], "a had to go because of the places"
    await world.touch("d", size=5 * GIB // 2)
    assert world.resident() == ["c", "d"]


async def test_weights_in_memory_are_not_available_though_the_kernel_says_so(world: World) -> None:
    world.available = 5 * GIB
    assert world.models.available_bytes() == 5 * GIB
    await world.touch("a", size=3 * GIB)
    assert world.models.available_bytes() == 2 * GIB
    world.available = GIB
    assert world.models.available_bytes() == 1, "nothing, as far as anybody knows; 0 would be: not known"


async def test_what_does_not_fit_is_refused_with_its_numbers_and_evicts_nobody(world: World) -> None:
    world.available = 4 * GIB
    await world.touch("a", size=GIB)
    with pytest.raises(ModelLoadFailed, match=r"more system memory \(5\.1 GiB\) than is available \(3\.0 GiB\)"):
        await world.touch("b", size=5 * GIB)
    assert (world.resident(), world.engine.names()) == (["a"], ["a"])


async def test_memory_of_a_model_in_use_is_waited_for(world: World) -> None:
    world.available = 4 * GIB
    async with world.models.use(a_named("a", size=2 * GIB), 0):
        waiting = asyncio.create_task(world.touch("b", size=3 * GIB))
        await until_blocked()
        assert world.resident() == ["a"]
    await waiting
    assert world.resident() == ["b"]


async def test_two_loads_are_not_promised_the_same_memory(world: World) -> None:
    world.available = 4 * GIB
    world.engine.may_load.clear()
    loads = [asyncio.create_task(world.touch(name, size=3 * GIB)) for name in ("a", "b")]
    await until_blocked()
    world.engine.may_load.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*loads)
    assert (world.engine.names(), world.resident()) == (["a", "b"], ["b"])


async def test_a_context_there_is_no_memory_for_does_not_take_a_shorter_one_along(world: World) -> None:
    world.available = 2 * GIB

    async def touch(num_ctx: int) -> LoadedEngine:
        model = a_named("a", size=GIB, kv_bytes_per_token=GIB >> 10)
        async with world.models.use(model, num_ctx) as loaded:
            return loaded

    results = await asyncio.gather(touch(1000), touch(0), return_exceptions=True)
    assert [type(result) for result in results] == [ModelLoadFailed, FakeModel]
    assert world.contexts() == [100]


async def test_an_idle_model_expires(world: World) -> None:
    await world.touch("a")
    world.now += 299
    world.models.expire()
    assert world.resident() == ["a"]
    assert world.models.snapshot()[0].expires_at == 1300
    world.now += 1
    world.models.expire()
    assert world.resident() == []


async def test_a_running_model_does_not_expire(world: World) -> None:
    async with world.models.use(a_named("a"), 0):
        world.models.keep("weights-of-a", 1)
        world.now += 1000
        world.models.expire()
        assert world.resident() == ["a"]
    world.models.expire()
    assert world.models.snapshot()[0].expires_at == world.now + 1


async def test_the_last_keep_alive_wins(world: World) -> None:
    await world.touch("a", keep_alive=-1)
    await world.touch("a")
    world.now += 1e6
    world.models.expire()
    assert world.models.snapshot()[0].expires_at is None
    await world.touch("a", keep_alive=0)
    assert world.resident() == []


async def test_unload_waits_until_it_is_idle(world: World) -> None:
    async with world.models.use(a_named("a"), 0):
        assert world.models.keep("weights-of-a", 0)
        assert not world.models.keep("weights-of-a", 0), "nothing new"
        assert world.resident() == ["a"]
    assert world.resident() == []
    assert not world.models.keep("unknown", 0)


async def test_what_another_worker_was_told_counts_for_an_idle_model_too(world: World) -> None:
    await world.touch("a")
    assert world.models.keep("weights-of-a", -1)
    assert world.models.snapshot()[0].expires_at is None
    assert world.models.keep("weights-of-a", 0)
    assert world.resident() == []


async def test_a_model_unloaded_while_it_is_loaded_leaves_after_its_use(world: World) -> None:
    world.engine.may_load.clear()
    loading = asyncio.create_task(world.touch("a"))
    await until_blocked()
    world.models.keep("weights-of-a", 0)
    world.engine.may_load.set()
    await loading
    assert (world.engine.names(), world.resident()) == (["a"], [])
    await world.touch("a")
    assert world.resident() == ["a"], "the next load knows nothing of it"


async def test_a_dead_engine_is_loaded_again(world: World) -> None:
    await world.touch("a")
    world.engine.loaded[0].died = "killed"
    assert world.resident() == []
    await world.touch("a")
    assert world.engine.names() == ["a", "a"]
    assert world.engine.loaded[0].closed


async def test_two_clients_with_different_contexts_reload_once(world: World) -> None:
    for num_ctx in (0, 500, 100, 500, 0, 300):
        assert (await world.touch("a", num_ctx)).context_length >= num_ctx
    assert world.contexts() == [100, 512]


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=12), st.integers(0, 1500))
@settings(deadline=None, max_examples=50)
def test_a_model_only_grows_and_does_so_a_few_times(wishes: list[int], trained: int) -> None:
    """From 100 on: 128, 256, 512, 1000."""

    async def loads() -> list[int]:
        world = World()
        for num_ctx in wishes:
            async with world.models.use(a_named("a", context_length=trained), num_ctx) as loaded:
                assert loaded.context_length >= min(num_ctx, 1000, trained or 1000)
        return world.contexts()

    contexts = asyncio.run(loads())
    assert contexts == sorted(set(contexts))
    assert len(contexts) <= 5


async def test_a_longer_context_waits_for_those_who_run_and_no_one_overtakes(world: World) -> None:
    async with world.models.use(a_named("a"), 0):
        world.models.keep("weights-of-a", -1)
        longer, short, longest = (asyncio.create_task(world.touch("a", num_ctx)) for num_ctx in (200, 0, 400))
        await until_blocked()
        assert world.contexts() == [100], "a free slot is not taken while a longer context is waited for"
    await asyncio.gather(longer, short, longest)
    assert world.contexts() == [100, 512], "once, and long enough for all who wait"
    assert world.models.snapshot()[0].expires_at is None, "it keeps its keep_alive"


async def test_who_gives_up_waiting_for_a_longer_context_holds_up_nobody(world: World) -> None:
    async with world.models.use(a_named("a"), 0):
        longer, short = asyncio.create_task(world.touch("a", 500)), asyncio.create_task(world.touch("a"))
        await until_blocked()
        longer.cancel()
        assert (await short).context_length == 100
    assert world.contexts() == [100]


async def test_a_context_too_long_to_load_costs_others_one_reload(world: World) -> None:
    await world.touch("a")
    world.engine.longest = 200
    tasks = [asyncio.create_task(world.touch("a", num_ctx)) for num_ctx in (500, 0, 128)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ModelLoadFailed, FakeModel, FakeModel]
    with pytest.raises(ModelLoadFailed, match="a context of 512 tokens could not be loaded a moment ago"):
        await world.touch("a", 500)
    assert world.contexts() == [100, 128], "what runs is not unloaded for it again"
    world.engine.longest, world.now = 1000, world.now + TOO_LONG_SECONDS + 1
    assert (await world.touch("a", 500)).context_length == 512


async def test_a_failure_that_passed_says_nothing_of_longer_contexts(world: World) -> None:
    world.engine.failing = True
    with pytest.raises(ModelLoadFailed, match="no memory"):
        await world.touch("a")
    world.engine.failing = False
    await world.touch("a")
    assert (await world.touch("a", 500)).context_length == 512


async def test_names_with_the_same_weights_share_a_load(world: World) -> None:
    first, second = a_named("a"), a_named("b", weights="weights-of-a")
    async with world.models.use(first, 0) as one, world.models.use(second, 0) as two:
        assert one is two
    assert world.resident() == ["a"]


async def test_every_file_of_a_model_is_fetched(world: World) -> None:
    model = a_named("a", projector="p", adapters=("x", "y"))
    async with world.models.use(model, 0):
        spec = world.engine.loaded[0].spec
    assert (spec.weights, spec.projector, spec.adapters) == (Path("weights-of-a"), Path("p"), (Path("x"), Path("y")))


async def test_an_engine_that_is_not_offered(world: World) -> None:
    model: ModelRef = a_named("a", engine="llama_cpp")
    with pytest.raises(ModelLoadFailed, match="llama_cpp"):
        async with world.models.use(model, 0):
            pass


async def test_the_loop_drops_what_expires(world: World) -> None:
    loop = asyncio.create_task(world.models.keep_expiring())
    await world.touch("a")
    await until_blocked()
    assert world.resident() == ["a"]
    world.now += 300
    await world.touch("b")  # any change makes the loop look again
    await until_blocked()
    assert world.resident() == ["b"]
    loop.cancel()


async def test_close_closes_everything(world: World) -> None:
    await world.touch("a")
    world.engine.may_load.clear()
    loading = asyncio.create_task(world.touch("b"))
    await until_blocked()
    await world.models.aclose()
    await asyncio.wait({loading})
    assert loading.cancelled()
    assert world.engine.loaded[0].closed
    assert world.changes > 0
