"""Waits until the services can serve, and says which one is awaited."""

import time
from collections.abc import Mapping

import httpx

from deploy.local.errors import SetupError
from deploy.local.servers import tail
from deploy.local.supervisor import Supervisor

READY_SECONDS = 120.0

# A program that ends this often while it starts has something to say in its log.
ENDS_TOLERATED = 3


def wait_until_ready(supervisor: Supervisor, urls: Mapping[str, str]) -> None:
    """``urls``: of health, by program.

    Raises ``SetupError`` with the end of a log when a service gives up, or after two minutes.
    """
    started = time.monotonic()
    waiting = dict(urls)
    pids: dict[str, set[int]] = {name: set() for name in waiting}
    while waiting:
        for name, url in list(waiting.items()):
            if health(url) == "ok":
                print(f"  {name} is ready ({time.monotonic() - started:.1f} s)", flush=True)
                del waiting[name]
            else:
                pids[name].add(supervisor.process(name)["pid"])
        failed = [name for name in waiting if len(pids[name]) > ENDS_TOLERATED]
        if failed or time.monotonic() - started > READY_SECONDS:
            name = (failed or sorted(waiting))[0]
            log_file = supervisor.log_file(name)
            problem = f"{name} does not become ready ({health(waiting[name])})"
            raise SetupError(f"{problem}; the end of {log_file}:\n{tail(log_file)}")
        time.sleep(0.1)


def health(url: str) -> str:
    """``ok``, or why not in a few words."""
    try:
        response = httpx.get(url, timeout=2, trust_env=False)
    except httpx.HTTPError:
        return "does not answer"
    return "ok" if response.status_code == 200 else str(response.json().get("reason", response.status_code))
