"""Waits until the services can serve, and says which one is awaited."""

import time

import httpx

from deploy.local.errors import SetupError
from deploy.local.programs import Program
from deploy.local.servers import tail
from deploy.local.services import health_url
from deploy.local.supervisor import Supervisor

READY_SECONDS = 120.0

# A program that ends this often while it starts has something to say in its log.
ENDS_TOLERATED = 3


def wait_until_ready(supervisor: Supervisor, programs: list[Program]) -> None:
    """Raises ``SetupError`` with the end of a log when a service gives up, or after two minutes."""
    started = time.monotonic()
    waiting = {program.name: program for program in programs}
    pids: dict[str, set[int]] = {name: set() for name in waiting}
    while waiting:
        for program in list(waiting.values()):
            if is_ready(program):
                print(f"  {program.name} is ready ({time.monotonic() - started:.1f} s)", flush=True)
                del waiting[program.name]
            else:
                pids[program.name].add(supervisor.process(program.name)["pid"])
        failed = [name for name in waiting if len(pids[name]) > ENDS_TOLERATED]
        if failed or time.monotonic() - started > READY_SECONDS:
            name = (failed or sorted(waiting))[0]
            log_file = supervisor.log_file(name)
            problem = f"{name} does not become ready ({health(health_url(waiting[name]))})"
            raise SetupError(f"{problem}; the end of {log_file}:\n{tail(log_file)}")
        time.sleep(0.1)


def is_ready(program: Program) -> bool:
    return health(health_url(program)) == "ok"


def health(url: str) -> str:
    """``ok``, or why not in a few words."""
    try:
        response = httpx.get(url, timeout=2, trust_env=False)
    except httpx.HTTPError:
        return "does not answer"
    return "ok" if response.status_code == 200 else str(response.json().get("reason", response.status_code))
