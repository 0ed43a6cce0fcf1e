"""CPU time of everything a request passes through: our processes, the brokers and the databases."""

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import psutil

SERVERS: dict[str, tuple[str, ...]] = {
    "postgres": ("postgres",),
    "redis": ("redis-server", "valkey-server"),
    "rabbitmq": ("beam.smp",),
}


def server_processes(kind: str, url: str) -> list[int]:
    """The process that listens at the URL's port; behind a container's port proxy, every server of this kind.

    Raises ``LookupError`` if there is none on this machine: its CPU cannot be counted.
    """
    port, names = urlsplit(url).port, SERVERS[kind]
    listening = {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr[1:] == (port,)
    }
    servers = [process for process in psutil.process_iter() if process.name() in names]
    found = [process.pid for process in servers if process.pid in listening] or [process.pid for process in servers]
    if not found:
        raise LookupError(f"no {kind} process on this machine: its CPU cannot be counted")
    return found


class CpuMeter:
    """CPU seconds by name since the processes started; descendants, dead ones too, count with their ancestor."""

    def __init__(self, pids: Mapping[str, Iterable[int]]) -> None:
        self._processes = {name: [psutil.Process(pid) for pid in some] for name, some in pids.items()}

    def read(self) -> dict[str, float]:
        return {name: _seconds(processes) for name, processes in self._processes.items()}


def _seconds(processes: Iterable[psutil.Process]) -> float:
    """A descendant that ends meanwhile moves from its own count to its parent's: the sum never goes back."""
    tree = {descendant for process in processes for descendant in (process, *process.children(recursive=True))}
    seconds = 0.0
    for process in tree:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
