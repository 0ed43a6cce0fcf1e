from typing import Any

import pytest

from libs.common.contracts.inference import Priority
from services.scheduler.accounts import Account, cost_of
from services.scheduler.metering import Classes, Meters
from tests.fixtures.builders import an_end


def classes() -> Classes:
    names: tuple[Priority, ...] = ("interactive", "batch", "idle")
    return {name: Account(name) for name in names}


@pytest.fixture
def root() -> Classes:
    return classes()


@pytest.fixture
def meters(root: Classes) -> Meters:
    return Meters(root)


def flow(root: Classes, priority: Priority = "interactive") -> Account:
    return root[priority].child("o").child("k")


def end(meters: Meters, **changes: Any) -> None:
    meters.end(an_end(**{"request_id": "r", "prompt_tokens": 5, "completion_tokens": 7, **changes}))


def test_the_prompt_at_the_grant_then_tokens_as_they_are_made(root: Classes, meters: Meters) -> None:
    meters.start("r", flow(root), 100, 0)
    assert flow(root).counter == cost_of(100, 0)
    meters.progress("r", 0, 3)
    assert flow(root).counter == cost_of(100, 3)
    meters.progress("r", 120, 2)
    assert flow(root).counter == cost_of(120, 3)


def test_in_the_end_exactly_what_it_took(root: Classes, meters: Meters) -> None:
    meters.start("r", flow(root), 100, 0)
    meters.progress("r", 0, 50)
    end(meters)
    end(meters)
    assert flow(root).counter == root["interactive"].child("o").counter == cost_of(5, 7)
    assert not meters.save().meters


def test_a_weight_divides_the_cost(root: Classes, meters: Meters) -> None:
    flow(root).weight, root["interactive"].child("o").weight = 2, 4
    meters.start("r", flow(root), 100, 0)
    assert (flow(root).counter, root["interactive"].child("o").counter) == (50, 25)


def test_a_second_grant_pays_no_prompt_again(root: Classes, meters: Meters) -> None:
    meters.start("r", flow(root), 100, 0)
    meters.start("r", flow(root), 100, 0)
    assert flow(root).counter == cost_of(100, 0)


def test_a_grant_of_unknown_size_moves_the_turn_on(root: Classes, meters: Meters) -> None:
    meters.start("r", flow(root), 0, 0)
    assert flow(root).counter > 0


def test_an_end_that_no_worker_tells_leaves_the_prompt_as_charged(root: Classes, meters: Meters) -> None:
    meters.start("r", flow(root), 100, 0)
    end(meters, worker_id="", prompt_tokens=0, completion_tokens=1)
    assert flow(root).counter == cost_of(100, 1)


def test_what_never_ran_costs_nothing(root: Classes, meters: Meters) -> None:
    end(meters, worker_id="", prompt_tokens=0, completion_tokens=0, granted_at=0)
    assert flow(root).counter == 0


def test_what_a_scheduler_granted_that_died_at_once_is_charged_when_it_ends(root: Classes, meters: Meters) -> None:
    end(meters)
    end(meters)
    assert flow(root).counter == cost_of(5, 7)


def test_another_scheduler_goes_on_with_what_was_saved(root: Classes, meters: Meters) -> None:
    meters.start("r", flow(root, "batch"), 100, 0)
    meters.progress("r", 100, 2)
    others = classes()
    successor = Meters(others)
    successor.load(meters.save())
    assert flow(others, "batch").counter == cost_of(100, 2)
    end(successor, prompt_tokens=100, completion_tokens=10)
    assert flow(others, "batch").counter == cost_of(100, 10)
    assert flow(others).counter == 0


def test_what_is_loaded_twice_counts_once(root: Classes, meters: Meters) -> None:
    meters.start("r", flow(root), 100, 0)
    saved = meters.save()
    meters.load(saved)
    meters.load(saved)
    end(meters, prompt_tokens=100, completion_tokens=0)
    assert flow(root).counter == cost_of(100, 0)
    assert flow(root).metered == 0


def test_the_idle_are_forgotten_at_the_second_look(root: Classes, meters: Meters) -> None:
    meters.start("r", flow(root), 100, 1e12)
    meters.forget(0)
    meters.forget(0)
    assert flow(root).counter == cost_of(100, 0)
    end(meters)
    meters.forget(0)
    meters.forget(0)
    assert not root["interactive"].children


def test_an_end_that_was_never_heard(root: Classes, meters: Meters) -> None:
    meters.start("r", flow(root), 100, 1000)
    meters.forget(1000)
    assert meters.save().meters
    meters.forget(2000)
    assert not meters.save().meters


def test_what_a_stand_by_guessed_of_ends_is_forgotten(root: Classes, meters: Meters) -> None:
    """It hears the end of a batch request before it has read that it was granted, and does not know its class."""
    others = classes()
    stand_by = Meters(others)
    end(stand_by)
    meters.start("r", flow(root, "batch"), 5, 0)
    end(meters)
    stand_by.load(meters.save())
    assert "o" not in others["interactive"].children
    assert flow(others, "batch").counter == cost_of(5, 7)


def test_what_ended_after_it_was_saved_is_put_right(root: Classes, meters: Meters) -> None:
    meters.start("r", flow(root), 100, 0)
    others = classes()
    stand_by = Meters(others)
    end(stand_by)
    stand_by.load(meters.save())
    assert flow(others).counter == cost_of(5, 7)
    assert not stand_by.save().meters
    assert flow(others).metered == 0
