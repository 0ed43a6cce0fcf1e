"""The faults, by name. Each strikes in the midst of the load, and has mended what it broke when it returns."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.chaos.scene import Scene, engines_of
from tests.fixtures.suite import Process

Strike = Callable[[Scene], Awaitable[None]]

FREEZE_SECONDS: Final = 8.0
"""Longer than the three seconds of silence after which a worker is taken for lost."""

LONG_FREEZE_SECONDS: Final = 20.0
"""Longer than the twelve seconds after which RabbitMQ gives up a silent connection."""

NETWORK_SECONDS: Final = 6.0
DELAY_SECONDS: Final = 0.15
POSTGRES_SECONDS: Final = 60.0
REDIS_SECONDS: Final = 1.0

WIRED: Final = {"worker": "worker-0", "gateway": "gateway-2"}
"""Schedulers all are."""

LOST_LOG: Final = frozenset({"stream_lost"})
"""DESIGN, section 4: where the log in memory is lost, a clear error is as good as the rest of the answer."""


@dataclass(frozen=True)
class Fault:
    """``errors``: the codes with which it may end an echo stream. A replay on a real model may always diverge."""

    name: str
    what: str
    strike: Strike
    errors: frozenset[str] = frozenset()


async def none(_scene: Scene) -> None:
    """For comparison."""
    await asyncio.sleep(3)


def one_of(service: str) -> Callable[[Scene], Awaitable[Process]]:
    async def choose(scene: Scene) -> Process:
        if service == "scheduler":
            return await scene.active_scheduler()
        return await scene.busy_worker() if service == "worker" else scene.one_of(service)

    return choose


def killed(service: str) -> Strike:
    async def strike(scene: Scene) -> None:
        process = await one_of(service)(scene)
        process.kill()
        await scene.restart(process)

    return strike


def frozen(service: str, seconds: float) -> Strike:
    """SIGSTOP, and SIGCONT: what was taken for dead speaks again."""

    async def strike(scene: Scene) -> None:
        process = await one_of(service)(scene)
        process.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            process.signal(signal.SIGCONT)
        await scene.back(process)

    return strike


def stopped(service: str) -> Strike:
    """SIGTERM, and a new one when it has drained."""

    async def strike(scene: Scene) -> None:
        await _renew(scene, await one_of(service)(scene))

    return strike


async def _renew(scene: Scene, process: Process) -> None:
    await asyncio.to_thread(process.stop)
    assert process.popen is not None
    assert process.popen.returncode == 0, f"{process.service} ended with {process.popen.returncode} at SIGTERM"
    await scene.restart(process)


async def stand_by_killed(scene: Scene) -> None:
    active = await scene.active_scheduler()
    (stand_by,) = (p for p in scene.suite.processes.values() if p.service == "scheduler" and p is not active)
    stand_by.kill()
    await scene.restart(stand_by)


async def engine_killed(scene: Scene) -> None:
    for model in engines_of(await scene.busy_worker(real=True)):
        model.kill()


async def engine_frozen(scene: Scene) -> None:
    models = engines_of(await scene.busy_worker(real=True))
    for model in models:
        model.suspend()
    try:
        await asyncio.sleep(FREEZE_SECONDS)
    finally:
        for model in models:
            if model.is_running():
                model.resume()


def server_restarts(name: str) -> Strike:
    async def strike(scene: Scene) -> None:
        await asyncio.to_thread(scene.servers.embedded[name].restart)
        await scene.back(*scene.suite.processes.values())

    return strike


def server_killed(name: str, seconds: float = 0.0) -> Strike:
    async def strike(scene: Scene) -> None:
        await asyncio.to_thread(scene.servers.embedded[name].kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(scene.servers.embedded[name].start)
        await scene.back(*scene.suite.processes.values())

    return strike


async def postgres_away(scene: Scene) -> None:
    await asyncio.to_thread(scene.servers.embedded["postgres"].stop)
    await asyncio.sleep(POSTGRES_SECONDS)
    await asyncio.to_thread(scene.servers.embedded["postgres"].start)
    await scene.back(*scene.suite.processes.values())


def wire(service: str, broker: str, how: str) -> Strike:
    async def strike(scene: Scene) -> None:
        process = await scene.active_scheduler() if service == "scheduler" else scene.suite.processes[WIRED[service]]
        proxy = scene.wires.of(process, broker)
        if how == "cut":
            proxy.cut()
        elif how == "freeze":
            proxy.freeze()
        else:
            proxy.delay(DELAY_SECONDS)
        await asyncio.sleep(NETWORK_SECONDS)
        proxy.mend()
        await scene.back(process)

    return strike


async def rolling_restart(scene: Scene) -> None:
    """All of them, one at a time."""
    for process in list(scene.suite.processes.values()):
        await _renew(scene, process)


def process_faults() -> list[Fault]:
    found = []
    for service in ("worker", "scheduler", "auth", "registry", "gateway"):
        seconds = LONG_FREEZE_SECONDS if service == "scheduler" else FREEZE_SECONDS
        found += [
            Fault(f"{service}-kill", "SIGKILL, and a new one", killed(service)),
            Fault(f"{service}-freeze", f"SIGSTOP for {seconds:g} s", frozen(service, seconds)),
            Fault(f"{service}-stop", "SIGTERM, and a new one", stopped(service)),
        ]
    return [
        *found,
        Fault("stand-by-kill", "SIGKILL of the scheduler that stands by", stand_by_killed),
        Fault("engine-kill", "SIGKILL of a model's process", engine_killed),
        Fault("engine-freeze", f"SIGSTOP of a model's process for {FREEZE_SECONDS:g} s", engine_frozen),
        Fault("rolling-restart", "SIGTERM of every process, one at a time", rolling_restart),
    ]


def server_faults() -> list[Fault]:
    return [
        Fault("rabbitmq-restart", "stopped and started", server_restarts("rabbitmq")),
        Fault("rabbitmq-kill", "SIGKILL, and started", server_killed("rabbitmq")),
        Fault("redis-kill", "SIGKILL, and started without its memory", server_killed("redis", REDIS_SECONDS), LOST_LOG),
        Fault("postgres-kill", "SIGKILL, and started", server_killed("postgres")),
        Fault("postgres-away", f"stopped for {POSTGRES_SECONDS:g} s", postgres_away),
    ]


def network_faults() -> list[Fault]:
    words = {"cut": "reset and refused", "freeze": "silent", "delay": f"{DELAY_SECONDS * 1e3:g} ms longer each way"}
    return [
        Fault(f"{name}-{broker}-{how}", f"the wire: {words[how]} for {NETWORK_SECONDS:g} s", wire(name, broker, how))
        for name in ("worker", "scheduler", "gateway")
        for broker in ("rabbitmq", "redis")
        for how in words
    ]
