"""``python -m tests.load [--quick] [--floor] [--write FILE]``: every target in every scenario, as a table."""

import argparse
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from tests.load import report
from tests.load.logins import measure_logins
from tests.load.scenarios import OPEN, SCENARIOS, Measurement, Target, measure
from tests.load.servers import Servers, running_servers
from tests.load.targets import bare_hops, real_path
from tests.load.verifying import measure_verifying

QUICK = 0.2
"""Share of the full time."""

OPEN_SHARE = 0.4
"""The open load as a share of what the bare hops can do: a path within its aim of twice their CPU is not overrun."""


@asynccontextmanager
async def targets(servers: Servers, *, only_floor: bool) -> AsyncIterator[list[Target]]:
    async with bare_hops(servers) as floor:
        if only_floor:
            yield [floor]
            return
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            async with real_path(servers, Path(directory)) as real:
                yield [floor, *real]


async def run(chosen: Sequence[Target], share: float) -> list[Measurement]:
    """Scenario by scenario, the targets in turn, so that a noisy minute of the machine hits them alike."""
    measurements: list[Measurement] = []
    for scenario in SCENARIOS:
        for target in chosen:
            print(f"{scenario.name}: {target.name}", file=sys.stderr, flush=True)
            open_rate = OPEN_SHARE * measurements[0].rate if measurements else 0
            measurements.append(await measure(target, replace(scenario, seconds=scenario.seconds * share), open_rate))
    return measurements


async def main(arguments: argparse.Namespace, servers: Servers) -> None:
    share = QUICK if arguments.quick else 1
    more = []
    async with targets(servers, only_floor=arguments.floor) as chosen:
        measurements = await run(chosen, share)
        for target in chosen[1:2]:
            print(f"logins: {target.name}", file=sys.stderr, flush=True)
            more = [report.logins(await measure_logins(target, share)), report.verifying(await measure_verifying())]
        open_rate = next(len(m.samples) / m.seconds for m in measurements if m.scenario.name == OPEN.name)
        about = f"{datetime.now(UTC):%Y-%m-%d}, {await servers.versions()}; open load {open_rate:.0f}/s."
    text = report.render(measurements, about, *more)
    print(text)
    if arguments.write:
        report.write(arguments.write, text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description="Measure the suite against bare hops.")
    parser.add_argument("--quick", action="store_true", help="a fifth of the time: for a look, not for a record")
    parser.add_argument("--floor", action="store_true", help="measure the bare hops only")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this file, between markers")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse_arguments()
    with running_servers() as servers:
        uvloop.run(main(options, servers))
