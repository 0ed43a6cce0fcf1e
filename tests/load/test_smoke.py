"""Keeps the benchmark's code alive: every scenario, a handful of requests, against the bare hops. Nothing is timed."""

from dataclasses import replace
from pathlib import Path

from tests.load import report
from tests.load.scenarios import SCENARIOS, measure
from tests.load.servers import Servers
from tests.load.targets import bare_hops
from tests.load.verifying import measure_verifying


async def test_every_scenario_on_the_bare_hops(
    rabbitmq_url: str, redis_url: str, postgres_url: str, tmp_path: Path
) -> None:
    servers = Servers(rabbitmq_url, redis_url, {"scheduler": postgres_url})
    async with bare_hops(servers) as floor:
        unhurried = replace(floor, paced_model=floor.model)
        # A closed loop ends when it has asked so often, however slow the machine; an open one by its time.
        small = [replace(scenario, most=8, seconds=30 if scenario.clients else 0.2) for scenario in SCENARIOS]
        measurements = [await measure(unhurried, scenario, open_rate=40) for scenario in small]
    assert {(m.intact, len(m.samples)) for m in measurements} == {(8, 8)}
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n")
    report.write(document, report.render(measurements, "a trial"))
    written = document.read_text().splitlines()
    assert (written[0], written[-1]) == ("before", "after")
    assert all(any(scenario.name in line for line in written) for scenario in small)


async def test_a_warm_gateway_asks_nobody_who_a_caller_is() -> None:
    """Measured in its own right by ``make bench``; here it must only run, and raises if anybody is asked."""
    cost = await measure_verifying(rounds=100)
    assert "an API key" in report.verifying(cost)
