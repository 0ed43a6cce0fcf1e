"""What the targets of the Makefile do."""

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from deploy.local import answer, demo, infrastructure, readiness, rolling
from deploy.local.config import RUN_DIR, Config, load_config, require_space
from deploy.local.errors import SetupError
from deploy.local.infrastructure import Infrastructure
from deploy.local.leftovers import end_leftovers
from deploy.local.postgres import remove_outside_data
from deploy.local.programs import Program, require_free_ports
from deploy.local.services import (
    SEED_MODEL,
    SUCCESSOR,
    admin_email,
    admits_anonymous,
    health_url,
    service_programs,
    successor,
)
from deploy.local.supervisor import Supervisor
from deploy.postgres.provision import ROLES, provision

SERVER_PROGRAMS = ("epmd", "rabbitmq", "valkey", "postgres")

HEADER = ("program", "state", "pid", "up", "health")


def up() -> None:
    """Everything, from nothing or from whatever runs already, until the model has answered."""
    require_space(RUN_DIR)
    config = load_config()
    with _alone(config.run_dir):
        supervisor = Supervisor(config.run_dir)
        if not supervisor.runs():
            _report_leftovers(end_leftovers(config.run_dir, SERVER_PROGRAMS))
        chosen = infrastructure.choose(config)
        services = service_programs(config, chosen)
        programs = [*(program for server in chosen.servers for program in server.programs), *services]
        _require_ports(supervisor, programs)
        supervisor.configure([*programs, successor(services[-1])])
        _start_servers(supervisor, chosen)
        provision(chosen.urls["postgres"], {role: config.secrets[f"{role.upper()}_DB_PASSWORD"] for role in ROLES})
        print("services:", flush=True)
        for program in services:
            supervisor.start(program.name)
        readiness.wait_until_ready(supervisor, {program.name: health_url(program) for program in services})
        supervisor.stop([SUCCESSOR])  # of a restart that was broken off
    answer.stream_answer(config)
    _print_summary(config)


def down() -> None:
    """The gateway first, so that its streams finish on services that run; the servers last. Data stays."""
    config = load_config()
    with _alone(config.run_dir):
        _stop_everything(config)
        if infrastructure.containers_in_use(config):
            infrastructure.compose(config, "down")
    print("everything has stopped; the data is kept (`make clean` removes it)")


def restart(service: str) -> None:
    """One process at a time, each ready before the next stops. ``service``: only this one; empty: all."""
    with _alone(RUN_DIR):
        supervisor = Supervisor(RUN_DIR)
        if not supervisor.runs():
            raise SetupError("nothing runs: start it with `make up`")
        urls = {name: f"{url}/health/ready" for name, url in _ops_urls(RUN_DIR).items()}
        rolling.restart(supervisor, urls, service)


def clean() -> None:
    """Stop everything and remove the data."""
    if not RUN_DIR.exists():
        return
    config = load_config()
    _stop_everything(config)
    if infrastructure.containers_in_use(config):
        infrastructure.compose(config, "down", "--volumes")
    remove_outside_data(RUN_DIR)
    shutil.rmtree(RUN_DIR)


def status() -> None:
    supervisor = Supervisor(RUN_DIR)
    if not supervisor.runs():
        raise SetupError("nothing runs: start it with `make up`")
    urls = _ops_urls(RUN_DIR)
    print("{:<12} {:<10} {:>8} {:>10}  {}".format(*HEADER))
    for process in supervisor.processes():
        name, state = process["name"], process["statename"].lower()
        if name == SUCCESSOR and not process["pid"]:
            continue
        seconds = process["now"] - process["start"] if process["pid"] else 0
        health = readiness.health(f"{urls[name]}/health/ready") if name in urls else "-"
        print(f"{name:<12} {state:<10} {process['pid']:>8} {seconds:>9}s  {health}")


def dead(arguments: list[str]) -> None:
    """The bus's own command on this suite's broker."""
    _run_as("scheduler", "libs.common.bus.dead_letters", arguments)


def audit(arguments: list[str]) -> None:
    """Auth's own command on this suite's audit log."""
    _run_as("auth", "services.auth.audit", arguments)


def ledger_check(arguments: list[str]) -> None:
    """Compares what this suite has billed with what it has done."""
    _run_as("scheduler", "libs.common.ledger_check", arguments)


def _run_as(service: str, module: str, arguments: list[str]) -> None:
    """With the environment of this service."""
    env = _specs(RUN_DIR)[service]["env"]
    os.execve(sys.executable, [sys.executable, "-m", module, *arguments], env)  # noqa: S606


def demo_failover() -> None:
    """Starts a second worker if there is only one."""
    config = load_config()
    if config.workers < 2 or not Supervisor(config.run_dir).runs():
        os.environ["WORKERS"] = str(max(2, config.workers))
        up()
    workers = {name: url for name, url in _ops_urls(RUN_DIR).items() if name.startswith("worker-")}
    demo.show_failover(config, workers)


def logs(service: str) -> None:
    """Follow the logs of a service, or of everything."""
    files = sorted(map(str, (RUN_DIR / "logs").glob(f"{service}*.log")))
    if not files:
        raise SetupError(f"there is no log of {service or 'anything'} yet: start the suite with `make up`")
    os.execvp("tail", ["tail", "-n", "50", "-F", *files])  # noqa: S606


def _specs(run_dir: Path) -> dict[str, dict[str, Any]]:
    """What the programs were last told, by name. Raises ``SetupError`` if there are none."""
    specs = {path.name.split(".")[0]: json.loads(path.read_text()) for path in (run_dir / "programs").glob("*.json")}
    if not specs:
        raise SetupError("nothing has been started here: start it with `make up`")
    return specs


def _ops_urls(run_dir: Path) -> dict[str, str]:
    """Where each service's health and metrics are, by program."""
    specs = _specs(run_dir).items()
    ports = {name: spec["env"].get(f"{name.partition('-')[0].upper()}_OPS_PORT") for name, spec in specs}
    return {name: f"http://127.0.0.1:{port}" for name, port in ports.items() if port is not None}


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    if not run_dir.exists():
        raise SetupError("nothing has been started here: start it with `make up`")
    with (run_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetupError(
                "another `make up`, `make down` or `make restart` is at work here: wait until it is done"
            ) from error
        yield


def _report_leftovers(names: list[str]) -> None:
    if names:
        print(f"ended what a killed supervisor had left behind: {', '.join(names)}")


def _require_ports(supervisor: Supervisor, programs: list[Program]) -> None:
    """Of those that do not run yet: what runs has its ports already."""
    running = {process["name"] for process in supervisor.processes() if process["pid"]} if supervisor.runs() else set()
    for program in programs:
        if program.name not in running:
            require_free_ports(program)


def _start_servers(supervisor: Supervisor, chosen: Infrastructure) -> None:
    """Side by side, because RabbitMQ takes seconds."""
    started = time.monotonic()
    for server in chosen.servers:
        for program in server.programs:
            supervisor.start(program.name)
    for server in chosen.servers:
        main = server.programs[-1].name
        server.wait_until_ready(partial(supervisor.is_up, main), supervisor.log_file(main))
        print(f"  {server.name} answers ({time.monotonic() - started:.1f} s)", flush=True)


def _stop_everything(config: Config) -> None:
    supervisor = Supervisor(config.run_dir)
    if supervisor.runs():
        names = [process["name"] for process in supervisor.processes()]
        services = [name for name in names if name not in SERVER_PROGRAMS]
        print("stopping; answers that are being given may finish first ...", flush=True)
        supervisor.stop(name for name in services if name == "gateway")
        supervisor.stop(services)
        supervisor.stop(name for name in names if name != "epmd")
        supervisor.shutdown()
    _report_leftovers(end_leftovers(config.run_dir, SERVER_PROGRAMS))


def _print_summary(config: Config) -> None:
    url, email, password = answer.base_url(config), admin_email(config), config.secrets["AUTH_ADMIN_PASSWORD"]
    body = f'{{"model": "{SEED_MODEL}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    header = ""
    if not admits_anonymous(config):
        header = " -H 'Authorization: Bearer TOKEN'"
        login = f'{{"email": "{email}", "password": "{password}"}}'
        print(f"TOKEN     curl {url}/api/v1/auth/login -H 'Content-Type: application/json' -d '{login}'")
    print(f"API       {url}")
    print(f"admin     {email}  password {password}")
    print(f"try       curl {url}/api/chat{header} -d '{body}'")
    print("stop      make down")
