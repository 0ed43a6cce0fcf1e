import asyncio

import pytest

from libs.common.contracts.worker import LoadedModel, ModelInUse
from services.gateway.cluster import SILENCE_SECONDS, Cluster
from tests.fixtures.builders import a_heartbeat, a_loaded_model, a_model, an_identity

CALLER = an_identity(organization_id="default")


def loaded(name: str, expires_at: float | None) -> LoadedModel:
    return a_loaded_model(a_model(name=name), expires_at=expires_at)


def test_one_row_per_model_the_latest_expiry_first() -> None:
    cluster = Cluster()
    cluster.hear(a_heartbeat(worker_id="w1", loaded=(loaded("a", 5.0), loaded("b", 9.0))), 0)
    cluster.hear(a_heartbeat(worker_id="w2", loaded=(loaded("a", 7.0), loaded("c", None))), 0)
    assert [(model.name, model.expires_at) for model in cluster.loaded(0, CALLER)] == [
        ("c", None),
        ("b", 9.0),
        ("a", 7.0),
    ]


def used(name: str, organization: str, *, shared: bool = False) -> ModelInUse:
    return ModelInUse(name=name, digest=f"of {name}", organization_id=organization, shared=shared)


def test_each_sees_what_is_loaded_under_its_own_names() -> None:
    model = a_loaded_model(a_model(name="secret"), used_as=(used("secret", "acme"), used("plain", "globex")))
    common = a_loaded_model(a_model(name="all"), used_as=(used("all", "default", shared=True),))
    cluster = Cluster()
    cluster.hear(a_heartbeat(loaded=(model, common)), 0)
    seen = {
        organization: {(row.name, row.digest) for row in cluster.loaded(0, an_identity(organization_id=organization))}
        for organization in ("acme", "globex", "other")
    }
    everybody = {("all", "of all")}
    assert seen == {
        "acme": {("secret", "of secret"), *everybody},
        "globex": {("plain", "of plain"), *everybody},
        "other": everybody,
    }
    few = an_identity(organization_id="acme", models=(("al*",),))
    assert [row.name for row in cluster.loaded(0, few)] == ["all"]


def test_workers_that_say_goodbye_or_nothing_are_left_out() -> None:
    cluster = Cluster()
    cluster.hear(a_heartbeat(worker_id="w1", loaded=(loaded("a", 5.0),)), 0)
    cluster.hear(a_heartbeat(worker_id="w2", loaded=(loaded("b", 5.0),)), 1)
    assert [model.name for model in cluster.loaded(SILENCE_SECONDS + 0.5, CALLER)] == ["b"]
    cluster.hear(a_heartbeat(worker_id="w2", state="offline"), 2)
    assert [model.name for model in cluster.loaded(2, CALLER)] == ["a"]


class Announced:
    """What the workers hear: an event without a name, but for its mark."""

    def __init__(self) -> None:
        self.mark: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self, mark: str) -> None:
        self.mark.set_result(mark)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.cluster.ANSWER_SECONDS", 60)


@pytest.mark.usefixtures("patient")
async def test_a_poll_waits_until_every_worker_has_answered() -> None:
    cluster, announced = Cluster(), Announced()
    for worker_id in ("w1", "w2", "w3"):
        cluster.hear(a_heartbeat(worker_id=worker_id), 0)
    poll = asyncio.create_task(cluster.poll(announced))
    mark = await announced.mark
    for heartbeat in (
        a_heartbeat(worker_id="w1", marks=("other", mark), loaded=(loaded("a", 5.0),)),
        a_heartbeat(worker_id="w2", state="offline"),
        a_heartbeat(worker_id="w3"),
    ):
        cluster.hear(heartbeat, 0)
        await asyncio.sleep(0)
        assert not poll.done()
    cluster.hear(a_heartbeat(worker_id="w3", marks=(mark,)), 0)
    await asyncio.wait_for(poll, 10)
    assert [model.name for model in cluster.loaded(0, CALLER)] == ["a"]


@pytest.mark.usefixtures("patient")
async def test_polls_do_not_disturb_each_other() -> None:
    cluster, first, second = Cluster(), Announced(), Announced()
    cluster.hear(a_heartbeat(), 0)
    polls = [asyncio.create_task(cluster.poll(announced)) for announced in (first, second)]
    cluster.hear(a_heartbeat(marks=(await first.mark, await second.mark)), 0)
    await asyncio.wait_for(asyncio.gather(*polls), 10)


@pytest.mark.usefixtures("patient")
async def test_without_workers_nobody_is_waited_for() -> None:
    await asyncio.wait_for(Cluster().poll(Announced()), 10)


async def test_a_worker_that_does_not_answer_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.cluster.ANSWER_SECONDS", 0.01)
    cluster = Cluster()
    cluster.hear(a_heartbeat(), 0)
    await cluster.poll(Announced())
