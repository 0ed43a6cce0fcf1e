"""Keeps the program alive: a few streams, a worker killed, and clients that go away. Nothing is timed."""

import random
from pathlib import Path

import pytest

from tests.chaos import report
from tests.chaos.load import Amount
from tests.chaos.report import Outcome
from tests.chaos.run import all_faults, run
from tests.chaos.scene import a_scene

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

FAULTS = ("worker-kill", "worker-redis-cut")


async def test_two_faults_under_a_few_streams(tmp_path: Path) -> None:
    by_name = {fault.name: fault for fault in all_faults()}
    outcomes: list[Outcome] = []
    async with a_scene(tmp_path, workers=2, chance=random.Random(1)) as scene:
        for name in FAULTS:
            outcomes.append(await run(scene, by_name[name], Amount(echo=11, real=0, rate=20), seconds=0.5))
    assert [report.explain(outcome) for outcome in outcomes if not outcome.passed] == []
    assert all(outcome.histories for outcome in outcomes)
    table = report.render(outcomes, "a trial")
    assert table.count("passed") == len(FAULTS)


def test_a_fault_that_was_not_survived_says_why() -> None:
    from tests.chaos.test_verdict import a_history

    fault = all_faults()[0]
    lost, intact = a_history("w0| w2| w3"), a_history("w0| w1| w2| w3")
    outcome = Outcome(fault, [lost, intact], struck=0.5, ended=9.0, troubles=["3 keys omx:log:*"])
    assert not outcome.passed
    told = report.explain(outcome)
    assert "generate r: lost" in told
    assert "3 keys omx:log:*" in told
    assert "FAILED" in report.render([outcome], "a trial")
