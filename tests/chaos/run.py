"""One fault under load, from calm to calm."""

import asyncio
import random
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from tests.chaos import load
from tests.chaos.faults import LOST_LOG, Fault, network_faults, none, process_faults, server_faults
from tests.chaos.leaks import in_calm, leaks
from tests.chaos.load import Amount
from tests.chaos.report import Outcome
from tests.chaos.rude import rude_faults
from tests.chaos.scene import Scene

AFTERMATH_SECONDS: Final = 30.0


def all_faults() -> list[Fault]:
    nothing = Fault("none", "for comparison", none)
    return [nothing, *process_faults(), *server_faults(), *network_faults(), *rude_faults()]


def storm(seed: int, count: int) -> Fault:
    """So many of them, one right after the other, as the seed says."""
    chosen = random.Random(seed).choices([*process_faults(), *server_faults(), *network_faults()], k=count)

    async def strike(scene: Scene) -> None:
        for fault in chosen:
            await fault.strike(scene)

    return Fault(f"storm {seed}", ", ".join(fault.name for fault in chosen), strike, LOST_LOG)


async def run(scene: Scene, fault: Fault, amount: Amount, seconds: float) -> Outcome:
    """``seconds``: of undisturbed load before the fault and after it."""
    before = await in_calm(scene)
    troubles = []
    async with load.running(scene.gateways, scene.api_key, amount) as running:
        await asyncio.sleep(seconds)
        struck = time.monotonic()
        try:
            await fault.strike(scene)
        except (AssertionError, ExceptionGroup, OSError, subprocess.SubprocessError) as error:
            troubles += [f"the fault could not be mended: {line}" for line in _lines(error)]
        scene.wires.mend()
        await load.everybody_heard(running, AFTERMATH_SECONDS)
        await asyncio.sleep(seconds)
    histories = running.histories
    troubles += await leaks(scene, before, histories)
    return Outcome(fault, histories, struck, time.monotonic(), troubles)


def _lines(error: BaseException) -> Iterator[str]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _lines(each)
    else:
        yield f"{type(error).__name__}: {error}"
