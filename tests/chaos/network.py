"""Wires between some of the processes and their brokers, to be cut, frozen and slowed down."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from tests.fixtures.suite import Process, Suite
from tests.fixtures.tcp_proxy import Proxy

BROKERS = {"rabbitmq": "RABBITMQ_URL", "redis": "REDIS_URL"}


@dataclass
class Wires:
    proxies: dict[tuple[int, str], Proxy] = field(default_factory=dict)
    """By the process's port for health, and broker."""

    def of(self, process: Process, broker: str) -> Proxy:
        return self.proxies[process.ops_port, broker]

    def mend(self) -> None:
        for proxy in self.proxies.values():
            proxy.mend()


@asynccontextmanager
async def laid_wires(suite: Suite, names: Sequence[str]) -> AsyncIterator[Wires]:
    """These processes of a suite that is not started yet reach the brokers through a proxy each."""
    wires = Wires()
    async with AsyncExitStack() as stack:
        for name in names:
            process = suite.processes[name]
            environment = process.environment
            for broker, variable in BROKERS.items():
                url = urlsplit(environment[variable])
                assert url.hostname is not None
                assert url.port is not None
                proxy = await stack.enter_async_context(Proxy(url.hostname, url.port).running())
                wires.proxies[process.ops_port, broker] = proxy
                user = url.netloc.rpartition("@")[0]
                environment[variable] = urlunsplit(url._replace(netloc=f"{user}@127.0.0.1:{proxy.port}"))
        yield wires
