"""A decision tells all that the rules were told: taken again from it alone, it is the same."""

import json
import random
import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.scheduler.decisions import AttemptDetails, Decision
from libs.common.contracts.scheduler.inference import AttemptRecord
from libs.common.contracts.scheduler.requests import RequestDetails
from services.scheduler import decisions, explain, placement
from services.scheduler.facts import RequestFacts, WorkerFacts
from services.scheduler.fleet import Fleet
from services.scheduler.grants import Grant
from services.scheduler.waiting import Waiting
from tests.fixtures.builders import a_heartbeat, a_loaded_model, a_model, a_request

WEIGHTS = a_model(name="m", engine="llama_cpp", weights="sha256:m", size=1000, kv_bytes_per_token=1)

some = st.integers(0, 4)
request_facts = st.builds(
    RequestFacts,
    runner=st.just("m"),
    alone=st.booleans(),
    prefix=st.just(4),
    wait_seconds=st.floats(0, 100),
    load_seconds=st.floats(0, 100),
    served=st.booleans(),
    draw=st.none() | st.integers(0, 2**32 - 1),
)
worker_facts = st.builds(
    WorkerFacts,
    state=st.sampled_from(["active", "active", "active", "draining", "unreachable"]),
    node_drains=st.sampled_from([False, False, True]),
    able=st.sampled_from([True, True, False]),
    slots=st.integers(1, 8),
    granted=some,
    model_slots=st.integers(1, 4),
    model_granted=some,
    at_hand=st.booleans(),
    must_grow=st.booleans(),
    max_models=st.integers(1, 3),
    models_in_use=some,
    models_loaded=some,
    needs_bytes=st.integers(0, 10),
    free_bytes=st.none() | st.integers(0, 10),
    idle_bytes=some,
    busy_bytes=some,
    coming_bytes=some,
    suspect=st.sampled_from([False, False, True]),
    failed=st.booleans(),
    prefix=some,
    stale=st.booleans(),
)


def composed(choice: placement.Choice) -> Decision:
    counters = {"organization": 10.0, "key": 3.0, "least": 1.5}
    return Decision.model_validate_json(decisions.compose(Waiting(a_request(), None, time.time()), choice, counters))


@given(request_facts, st.lists(worker_facts, min_size=1, max_size=16))
def test_decided_again_from_what_was_kept_it_is_the_same(request: RequestFacts, workers: list[WorkerFacts]) -> None:
    verdict = placement.decide(request, workers)
    if verdict.chosen is None:
        return
    fleet = Fleet()
    for number in range(len(workers)):
        fleet.hear(a_heartbeat(worker_id=str(number)), now=0)
    choice = placement.Choice(list(fleet)[verdict.chosen], request, list(fleet), workers, verdict, len(workers))
    decision = composed(choice)
    assert decisions.decide_again(decision) == []
    assert decision.chosen == str(verdict.chosen)
    assert [candidate.refused_by for candidate in decision.candidates] == list(verdict.refusals)


@pytest.mark.parametrize("seed", range(20))
def test_decisions_of_a_fleet_at_work_are_the_same_when_they_are_taken_again(seed: int) -> None:
    choices, fleet = random.Random(seed), Fleet()
    models = [WEIGHTS, a_model(), WEIGHTS.model_copy(update={"weights": "sha256:n"})]
    for number in range(choices.choice([2, 5, 40])):
        fleet.hear(
            a_heartbeat(
                worker_id=str(number),
                node=f"n{number}",
                memory_available_bytes=choices.choice([0, 1 << 20, 1 << 30]),
                loaded=tuple(a_loaded_model(model) for model in choices.sample(models, choices.randint(0, 2))),
            ),
            now=choices.choice([0, 5]),
        )
    for _ in range(60):
        model, prefix = choices.choice(models), (choices.randint(0, 9), choices.randint(10, 40))
        request = a_request(model=model, prefix=prefix, num_ctx=choices.choice([0, 9000]))
        wait = choices.choice([0.0, 0.3, 5.0])
        choice = placement.place(request, fleet, alone=choices.random() < 0.1, wait_seconds=wait, now=6)
        if choice.worker is None:
            continue
        choice.worker.grant(Grant(request.request_id, 1, model.runner, 6, request))
        decision = composed(choice)
        assert decisions.decide_again(decision) == []
        assert decision.considered == len(fleet)
        assert len(decision.candidates) <= 16


def a_decision() -> Decision:
    fleet = Fleet()
    fleet.hear(a_heartbeat(worker_id="warm", node="n1", loaded=(a_loaded_model(a_model()),)), now=0)
    fleet.hear(a_heartbeat(worker_id="drains", node="n2", state="draining"), now=0)
    return composed(placement.place(a_request(), fleet))


def test_a_decision_tells_who_was_refused_by_what_and_what_the_others_scored() -> None:
    decision = a_decision()
    warm, drains = decision.candidates
    assert decision.chosen == warm.worker_id == "warm"
    assert warm.scores == {"already_loaded": 2.0, "room_without_eviction": 0.5, "free_share": 1.0}
    assert (drains.node, drains.refused_by, drains.scores) == ("n2", "accepts_work", {})
    assert decision.counters == {"organization": 10.0, "key": 3.0, "least": 1.5}


def test_a_decision_names_nobody_and_tells_others_counters_to_operators_alone() -> None:
    request = a_request(organization_id="secret-organization", user_id="secret-user", key_id="secret-key")
    fleet = Fleet()
    fleet.hear(a_heartbeat(), now=0)
    other = a_request(organization_id="another-secret", user_id="secret-too")
    fleet["w1"].grant(Grant(other.request_id, 1, other.model.runner, 0, other))
    decision = composed(placement.place(request, fleet))
    assert "secret" not in decision.model_dump_json()
    assert other.request_id not in decision.model_dump_json()
    assert decisions.without_others(decision).counters == {"organization": 10.0, "key": 3.0}


def test_the_latest_decisions_are_kept_and_every_attempt() -> None:
    made: tuple[AttemptRecord, ...] = ()
    for epoch in range(1, 31):
        attempt = AttemptRecord(epoch=epoch, worker_id="w", granted_at=1.0, decision_json="{}")
        made = decisions.keep(made, attempt)
    assert [attempt.epoch for attempt in made] == list(range(1, 31))
    assert [attempt.epoch for attempt in made if attempt.decision_json] == list(range(11, 31))


def test_explain_tells_a_decision_a_person_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main(a_decision().model_dump_json()) == 0
    told = capsys.readouterr().out
    assert "warm of 2 workers" in told
    assert "* warm on n1: 3.5 = already_loaded=+2 room_without_eviction=+0.5 free_share=+1" in told
    assert "drains on n2: refused by accepts_work" in told
    assert told.endswith("decided again: the same\n")


def test_explain_says_what_would_be_decided_differently(capsys: pytest.CaptureFixture[str]) -> None:
    document = a_decision().model_dump()
    document["chosen"] = "drains"
    document["candidates"][0]["scores"] = {"free_share": 7.0}
    assert explain.main(json.dumps(document)) == 1
    told = capsys.readouterr().out
    assert "chosen: drains, now warm" in told
    assert "warm: scores {'free_share': 7.0}, now" in told


def test_explain_reads_a_whole_request_from_standard_input() -> None:
    attempts = tuple(
        AttemptDetails(epoch=epoch, worker_id="warm", granted_at=1.0, decision=decision)
        for epoch, decision in ((1, None), (2, a_decision()), (3, a_decision()))
    )
    request = RequestDetails(
        id="r", status="running", kind="chat", model="echo", accepted_at=1.0, attempts=attempts, attempt_count=3
    )
    ran = subprocess.run(
        [sys.executable, "-m", "services.scheduler.explain"],
        input=request.model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout.count("decided again: the same") == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"attempts": []}', '{"at": "never"}'])
def test_explain_says_so_when_there_is_nothing_to_explain(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main(text) == 2
    assert capsys.readouterr().err


def test_what_was_kept_is_a_decision_of_the_contract() -> None:
    """Names that the contract does not have would be lost silently."""
    fleet = Fleet()
    fleet.hear(a_heartbeat(), now=0)
    text = decisions.compose(Waiting(a_request(), None, time.time()), placement.place(a_request(), fleet), {})
    assert set(msgspec.json.decode(text)) <= set(Decision.model_fields)
