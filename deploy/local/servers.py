"""A server we bring along, as a value: its programs, its address, and how to tell that it answers."""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import SetupError
from deploy.local.programs import Program

READY_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    name: str
    url: str
    programs: tuple[Program, ...]
    """In the order in which they start."""

    answers: Callable[[], bool]

    def wait_until_ready(self, still_runs: Callable[[], bool], log_file: Path) -> None:
        """Raises ``SetupError`` with the end of the log if it gives up or does not answer in a minute."""
        deadline = time.monotonic() + READY_SECONDS
        while not self.answers():
            if not still_runs() or time.monotonic() > deadline:
                raise SetupError(f"{self.name} does not start; the end of {log_file}:\n{tail(log_file)}")
            time.sleep(0.05)


def tail(log_file: Path, lines: int = 15) -> str:
    if not log_file.exists():
        return "(no log yet)"
    return "\n".join(log_file.read_text(errors="replace").splitlines()[-lines:])


def package_directory(package: str) -> Path:
    """Where an installed package lies. It is not imported: these packages do more at import than we want."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(f"the Python package {package} is not installed: run `make up`, which installs it")
    return Path(spec.submodule_search_locations[0])
