"""``python -m tests.chaos [--fault NAME ...] [--storm K]``: faults under load, one after the other, and a verdict."""

import argparse
import os
import platform
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from tests.chaos import report
from tests.chaos.faults import Fault
from tests.chaos.leaks import queues_of_the_dead
from tests.chaos.load import Amount
from tests.chaos.report import Outcome
from tests.chaos.run import all_faults, run, storm
from tests.chaos.scene import Scene, a_scene


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def run_all(faults: Sequence[Fault], options: argparse.Namespace) -> list[Outcome]:
    """On one suite, but one in which a fault left something behind is thrown away: the next finds a sound one."""
    amount = Amount(options.streams, options.real, options.rate)
    outcomes: list[Outcome] = []
    scene: Scene | None = None
    async with AsyncExitStack() as stack:
        for number, fault in enumerate(faults, 1):
            say(f"{number}/{len(faults)} {fault.name}: {fault.what}")
            if scene is None:
                directory = Path(tempfile.mkdtemp(prefix="ollamamax-chaos-"))
                say(f"logs: {directory}")
                scene = await stack.enter_async_context(a_scene(directory, options.workers, options.chance))
            outcome = await run(scene, fault, amount, options.seconds)
            outcomes.append(outcome)
            say(report.explain(outcome))
            if outcome.troubles:
                scene = None
                await stack.aclose()
        if scene is not None and (queues := await queues_of_the_dead(scene)):
            outcomes[-1] = replace(outcomes[-1], troubles=[*outcomes[-1].troubles, *queues])
            say(report.explain(outcomes[-1]))
    return outcomes


def parse_arguments(names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults under load, and a verdict.")
    parser.add_argument("--list", action="store_true", help="name the faults")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME", choices=names, help="only this one")
    parser.add_argument("--storm", type=int, default=0, metavar="N", help="instead: N faults in a row, by the seed")
    parser.add_argument("--seed", type=int, default=1, help="decides victims and storms (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=200, help="of numbered tokens at once (default: %(default)s)")
    parser.add_argument("--real", type=int, default=4, help="streams of the real model (default: %(default)s)")
    parser.add_argument(
        "--rate", type=int, default=10, help="about: tokens a second of a stream (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=3, help="of load before and after (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=3, help="worker processes (default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file, between markers")
    options = parser.parse_args()
    options.chance = random.Random(options.seed)
    return options


def main() -> int:
    by_name = {fault.name: fault for fault in all_faults()}
    options = parse_arguments(list(by_name))
    if options.list:
        print("\n".join(f"{fault.name:28} {fault.what}" for fault in by_name.values()))
        return 0
    faults = [by_name[name] for name in options.fault or by_name]
    outcomes = uvloop.run(run_all([storm(options.seed, options.storm)] if options.storm else faults, options))
    about = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{options.streams} streams of {options.rate} tokens/s and {options.real} of the real model, "
        f"{options.workers} workers, seed {options.seed}."
    )
    text = report.render(outcomes, about)
    print(text)
    if options.write:
        report.write(options.write, text)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
