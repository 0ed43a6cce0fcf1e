import asyncio
import time

from libs.common.contracts.worker import LoadedModel
from services.gateway.cluster import SILENCE_SECONDS, Cluster
from tests.fixtures.builders import a_heartbeat, a_loaded_model, a_model


def loaded(name: str, expires_at: float | None) -> LoadedModel:
    return a_loaded_model(a_model(name=name), expires_at=expires_at)


def test_one_row_per_model_the_latest_expiry_first() -> None:
    cluster = Cluster()
    cluster.hear(a_heartbeat(worker_id="w1", loaded=(loaded("a", 5.0), loaded("b", 9.0))), 0)
    cluster.hear(a_heartbeat(worker_id="w2", loaded=(loaded("a", 7.0), loaded("c", None))), 0)
    assert [(model.name, model.expires_at) for model in cluster.loaded(0)] == [("c", None), ("b", 9.0), ("a", 7.0)]


def test_workers_that_say_goodbye_or_nothing_are_left_out() -> None:
    cluster = Cluster()
    cluster.hear(a_heartbeat(worker_id="w1", loaded=(loaded("a", 5.0),)), 0)
    cluster.hear(a_heartbeat(worker_id="w2", loaded=(loaded("b", 5.0),)), 1)
    assert [model.name for model in cluster.loaded(SILENCE_SECONDS + 0.5)] == ["b"]
    cluster.hear(a_heartbeat(worker_id="w2", state="offline"), 2)
    assert [model.name for model in cluster.loaded(2)] == ["a"]


async def test_a_model_just_loaded_is_waited_for() -> None:
    cluster = Cluster()
    now = time.monotonic()
    cluster.expect("digest-of-a", now)
    settled = asyncio.create_task(cluster.settle(now))
    await asyncio.sleep(0)
    cluster.hear(a_heartbeat(), now)
    await asyncio.sleep(0)
    assert not settled.done()
    cluster.hear(a_heartbeat(loaded=(loaded("a", 5.0),)), now)
    await asyncio.wait_for(settled, 1)
    assert [model.name for model in cluster.loaded(now)] == ["a"]


async def test_nothing_expected_is_nothing_waited_for() -> None:
    cluster = Cluster()
    cluster.expect("gone", 0)
    await cluster.settle(100)
