"""Programs that outlived whoever started them: the supervisor, or a test session that was killed."""

import os
import signal
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.local.launch import start_time

STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Running:
    name: str
    pid: int
    started: str
    stop_signal: str

    def runs(self) -> bool:
        """The pid alone is not enough: another process may have it by now."""
        return start_time(self.pid) == self.started


def running_programs(run_dir: Path) -> list[Running]:
    """Every program started by ``deploy.local.launch`` for this directory that still runs."""
    written = [(path.name, *path.read_text().split()) for path in (run_dir / "pids").glob("*")]
    programs = [Running(line[0], int(line[1]), line[2], line[3]) for line in written if len(line) == 4]
    return [program for program in programs if program.runs()]


def end_leftovers(run_dir: Path, servers: Collection[str]) -> list[str]:
    """End what still runs, the ``servers`` after the programs that use them; returns the names."""
    programs = running_programs(run_dir)
    _end([program for program in programs if program.name not in servers])
    _end([program for program in programs if program.name in servers])
    return sorted(program.name for program in programs)


def _end(programs: Collection[Running]) -> None:
    for program in _still(programs):
        with suppress(ProcessLookupError):
            os.kill(program.pid, signal.Signals[f"SIG{program.stop_signal}"])
    deadline = time.monotonic() + STOP_SECONDS
    while _still(programs) and time.monotonic() < deadline:
        time.sleep(0.05)
    for program in _still(programs):
        with suppress(ProcessLookupError):
            os.kill(program.pid, signal.SIGKILL)


def _still(programs: Iterable[Running]) -> list[Running]:
    return [program for program in programs if program.runs()]
