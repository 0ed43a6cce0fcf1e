"""Fair sharing, whatever comes: the properties of virtual token counters on a server with slots."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.accounts import INPUT_COST, OUTPUT_COST, Account
from services.scheduler.waiting import Waiting
from tests.fixtures.builders import a_model, an_end
from tests.fixtures.sharing import Server

LONGEST_PROMPT, LONGEST_ANSWER = 50, 20

sizes = st.tuples(st.integers(0, LONGEST_PROMPT), st.integers(1, LONGEST_ANSWER))
few = settings(max_examples=20, deadline=None)


def bound(slots: int) -> float:
    """Of the paper: so many tokens, prompts among them, are in memory at once."""
    return 2 * max(INPUT_COST * LONGEST_PROMPT, OUTPUT_COST * slots * (LONGEST_PROMPT + LONGEST_ANSWER))


@few
@given(st.lists(sizes, min_size=1, max_size=8), st.lists(sizes, min_size=1, max_size=8), st.integers(1, 4))
def test_two_that_always_wait_are_served_alike_in_every_window(
    of_a: list[tuple[int, int]], of_b: list[tuple[int, int]], slots: int
) -> None:
    server = Server(slots)
    most = least = 0.0
    for tick in range(150):
        for name, lengths in (("a", of_a), ("b", of_b)):
            while server.waiting.classes["interactive"].child(name).waiting <= slots:
                prompt, answer = lengths[len(server.granted) % len(lengths)]
                server.send(name, prompt, answer)
        server.step()
        if tick == 0:
            most = least = server.served["a"] - server.served["b"]
        gap = server.served["a"] - server.served["b"]
        most, least = max(most, gap), min(least, gap)
    assert most - least <= bound(slots)


@few
@given(st.lists(st.tuples(st.sampled_from("abc"), sizes), max_size=60), st.integers(1, 4))
def test_no_slot_is_idle_while_somebody_waits(arrivals: list[tuple[str, tuple[int, int]]], slots: int) -> None:
    server = Server(slots)
    for name, (prompt, answer) in arrivals:
        server.send(name, prompt, answer)
        server.fill()
        assert len(server.running) == slots or not server.waiting
        server.step()
    while server.waiting or server.running:
        server.step()
    assert len(server.granted) == len(arrivals)


@few
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("kl"), sizes), max_size=60))
def test_within_a_flow_first_in_first_out(arrivals: list[tuple[str, str, tuple[int, int]]]) -> None:
    server = Server(2)
    sent: dict[tuple[str, str], list[str]] = {}
    for name, key, (prompt, answer) in arrivals:
        sent.setdefault((name, key), []).append(server.send(name, prompt, answer, key_id=key))
        if len(sent) % 3 == 0:
            server.step()
    while server.waiting or server.running:
        server.step()
    for flow in sent.values():
        assert [request_id for request_id in server.granted if request_id in set(flow)] == flow


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_service_is_in_proportion_to_weights(weight: float) -> None:
    server = Server(2)
    for _ in range(500):
        server.keep_backlogged("a", prompt=10, answer=5, organization_weight=weight)
        server.keep_backlogged("b", prompt=10, answer=5)
        server.step()
    assert server.served["a"] / server.served["b"] == pytest.approx(weight, rel=0.05)


def test_keys_share_what_their_organization_gets() -> None:
    server = Server(1)
    for _ in range(300):
        server.send("a", 10, 5, key_id="k", key_weight=3.0)
        server.send("a", 10, 5, key_id="l")
        server.send("b", 10, 5)
    for _ in range(1500):
        server.step()
    granted = [(request_id[0]) for request_id in server.granted]
    assert granted.count("a") == pytest.approx(granted.count("b"), rel=0.05)
    flows = server.waiting.classes["interactive"].child("a").children
    assert flows["k"].counter == pytest.approx(flows["l"].counter, abs=60)


def test_a_hundred_keys_get_no_more_than_one() -> None:
    server = Server(1)
    for number in range(300):
        server.send("a", 10, 5, key_id=f"k{number % 100}")
        server.send("b", 10, 5)
    for _ in range(400):
        server.step()
    assert server.served["a"] == pytest.approx(server.served["b"], rel=0.05)


def test_nobody_saves_up_while_idle() -> None:
    """Who was away gets its share from now on, and not what it did not want before."""
    server = Server(1)
    for _ in range(400):
        server.keep_backlogged("a", prompt=10, answer=5)
        server.step()
    before = dict(server.served)
    for _ in range(400):
        server.keep_backlogged("ab", prompt=10, answer=5)
        server.step()
    gained = {name: server.served[name] - before.get(name, 0) for name in "ab"}
    assert gained["b"] == pytest.approx(gained["a"], rel=0.05)


def test_who_comes_back_from_idleness_gets_the_next_slot() -> None:
    """Lifted to the others it is one of equals; they have just been served."""
    server = Server(1)
    for _ in range(100):
        server.keep_backlogged("a", prompt=10, answer=5)
        server.step()
    server.send("b", 10, 5)
    while len(server.running) == server.slots:
        server.step()
    server.fill()
    assert server.granted[-1].startswith("b-")


def test_nobody_saves_up_while_all_are_idle() -> None:
    server = Server(1)
    for _ in range(100):
        server.send("a", 10, 5)
        while server.waiting or server.running:
            server.step()
    server.send("b", 10, 5)
    root = server.waiting.classes["interactive"]
    assert root.child("b").counter == root.child("a").counter > 0


def test_a_credit_of_one_class_is_none_in_another() -> None:
    """Who lets batch requests wait for ever does not get the interactive slots for it."""
    server = Server(1)
    server.send("b", 10, 5, priority="idle")
    for _ in range(500):
        server.keep_backlogged("a", prompt=10, answer=5)
        server.step()
    server.send("b", 10, 5)
    root = server.waiting.classes["interactive"]
    assert root.child("b").counter == root.child("a").counter


def test_what_ages_is_served_although_others_never_pause() -> None:
    server = Server(1)
    old = server.send("b", 10, 5, priority="batch", accepted_at=0.0)
    idle = server.send("c", 10, 5, priority="idle", accepted_at=0.0)
    for _ in range(100):
        server.keep_backlogged("a", prompt=10, answer=5)
        server.step()
    assert old not in server.granted
    server.waiting.age(accepted_before=1.0)
    for _ in range(100):
        server.keep_backlogged("a", prompt=10, answer=5)
        server.step()
    assert old in server.granted
    assert idle not in server.granted


def test_what_aged_does_not_hold_up_its_own_interactive_requests() -> None:
    server = Server(1)
    for _ in range(100):
        server.send("a", 10, 5, key_id="k", priority="batch")
    server.waiting.age(accepted_before=1.0)
    server.step()
    soon = server.send("a", 10, 5, key_id="k")
    for _ in range(10):
        server.step()
    assert soon in server.granted


def test_late_reports_cost_fairness_little() -> None:
    server = Server(4, charge_every=10)
    for _ in range(400):
        server.keep_backlogged("a", prompt=1, answer=20)
        server.keep_backlogged("b", prompt=40, answer=2)
        server.step()
    assert abs(server.served["a"] - server.served["b"]) <= bound(4)


actions = st.lists(
    st.tuples(
        st.sampled_from(["send", "step", "remove", "lost", "preempt", "age", "forget", "restart"]),
        st.sampled_from("abc"),
        st.sampled_from(["interactive", "batch", "idle"]),
        st.integers(0, 40),
        st.booleans(),
    ),
    max_size=120,
)


@few
@given(actions)
def test_whatever_happens_everybody_is_somewhere_once(steps: list[tuple[Any, ...]]) -> None:
    server = Server(2)
    sent: set[str] = set()
    for action, name, priority, number, second_model in steps:
        waiting = sorted(entry.request.request_id for entry in server.waiting)
        if action == "send":
            model = {"model": MODELS[second_model], "priority": priority, "accepted_at": float(number)}
            sent.add(server.send(name, number, 1 + number % 5, **model))
        elif action == "step":
            server.step()
        elif action == "remove" and waiting:
            removed = waiting[number % len(waiting)]
            assert server.waiting.remove(removed) is not None
            server.waiting.meters.end(an_end(request_id=removed, worker_id="", granted_at=0))
            sent.discard(removed)
        elif action in ("lost", "preempt") and server.running:
            request_id = sorted(server.running)[number % len(server.running)]
            running = server.running.pop(request_id)
            server.granted.remove(request_id)
            put_back(server, running.request, preempted=action == "preempt")
        elif action == "age":
            server.waiting.age(float(number))
        elif action == "forget":
            server.waiting.meters.forget(0.0)
        elif action == "restart":
            server.waiting.meters.load(server.waiting.meters.save())
        check(server, sent)
    while server.waiting or server.running:
        server.step()
    assert sorted(server.granted) == sorted(sent)
    assert not server.waiting.meters.save().meters


MODELS = {False: a_model(), True: a_model(name="other")}


def put_back(server: Server, request: Any, *, preempted: bool) -> None:
    server.waiting.put_back(Waiting(request, None, server.tick), preempted=preempted)
    if not preempted:
        assert server.waiting.next_one(()) is not None


def check(server: Server, sent: set[str]) -> None:
    waiting = server.waiting
    ordered = [entry.request.request_id for entry in waiting.in_order()]
    assert sorted(ordered) == sorted(entry.request.request_id for entry in waiting)
    assert len(set(ordered)) == len(ordered) == len(waiting)
    assert set(ordered) | set(server.granted) == sent
    if (head := waiting.next_one(())) is not None:
        first = next(waiting.in_order())
        assert waiting.account(head).parent.counter == waiting.account(first).parent.counter  # type: ignore[union-attr]
    for root in waiting.classes.values():
        for account in accounts(root):
            assert math.isfinite(account.counter)
            assert account.counter >= 0
            assert account.waiting >= 0


def accounts(account: Account) -> list[Account]:
    return [account, *(each for child in account.children.values() for each in accounts(child))]
