import pytest

from libs.common.contracts.worker import VirtualModel
from services.registry.names import parse
from services.registry.virtual_models import FIRST_ROUND_SECONDS, SILENCE_SECONDS, VirtualModels
from tests.fixtures.builders import a_heartbeat


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def virtual(clock: Clock) -> VirtualModels:
    models = VirtualModels(clock)
    announced = (
        VirtualModel(pattern="mock-*", engine="openai_http", capabilities=("completion",)),
        VirtualModel(pattern="echo", engine="echo", context_length=4096),
    )
    models.hear(a_heartbeat(virtual_models=announced))
    return models


@pytest.mark.parametrize(
    ("asked", "name"), [("mock-1", "mock-1"), ("mock-1:latest", "mock-1"), ("mock-1:7b", "mock-1:7b")]
)
def test_a_pattern_matches_with_or_without_the_default_tag(virtual: VirtualModels, asked: str, name: str) -> None:
    ref = virtual.resolve(parse(asked))
    assert ref is not None
    assert (ref.name, ref.engine, ref.weights, ref.capabilities) == (name, "openai_http", None, ("completion",))


def test_the_same_model_has_one_digest(virtual: VirtualModels) -> None:
    digests = {ref.digest for asked in ("mock-1", "mock-1:latest") if (ref := virtual.resolve(parse(asked)))}
    assert [len(digest) for digest in digests] == [64]


@pytest.mark.parametrize("asked", ["Mock-1", "other", "echo:7b", "me/echo"])
def test_what_no_pattern_matches(virtual: VirtualModels, asked: str) -> None:
    assert virtual.resolve(parse(asked)) is None


def test_only_a_name_without_wildcards_is_listed(virtual: VirtualModels) -> None:
    assert [summary.name for summary in virtual.summaries()] == ["echo:latest"]


def test_describe(virtual: VirtualModels) -> None:
    description = virtual.describe(parse("echo"))
    assert description is not None
    assert description.model_info == {"general.architecture": "echo", "echo.context_length": 4096}
    assert virtual.describe(parse("nobody")) is None


def test_a_silent_worker_is_forgotten(virtual: VirtualModels, clock: Clock) -> None:
    clock.now += SILENCE_SECONDS + 0.1
    assert virtual.resolve(parse("echo")) is None
    assert virtual.summaries() == []


def test_a_worker_that_leaves_is_forgotten_at_once(virtual: VirtualModels) -> None:
    virtual.hear(a_heartbeat(state="offline"))
    assert virtual.resolve(parse("echo")) is None


async def test_a_registry_that_has_just_started_hears_the_workers_first() -> None:
    clock = iter((0.0, 0.1, FIRST_ROUND_SECONDS, FIRST_ROUND_SECONDS))
    models = VirtualModels(clock=lambda: next(clock))
    models.begin(lambda: 1)
    assert [models.settled, models.settled] == [False, True]
    await models.wait_for_first_round()


def test_after_a_lost_connection_the_silence_was_ours(clock: Clock) -> None:
    connections = 1
    models = VirtualModels(clock)
    models.begin(lambda: connections)
    models.hear(a_heartbeat(virtual_models=(VirtualModel(pattern="echo", engine="echo"),)))
    clock.now += 2 * SILENCE_SECONDS
    connections = 2
    assert models.resolve(parse("echo")) is not None
    clock.now += SILENCE_SECONDS
    assert models.resolve(parse("echo")) is None
