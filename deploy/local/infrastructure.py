"""Postgres, RabbitMQ and Redis: those given by URL, the rest from Docker if an engine answers, else our own."""

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deploy.local.config import Config
from deploy.local.docker import docker_answers
from deploy.local.errors import SetupError
from deploy.local.postgres import postgres_server
from deploy.local.programs import ROOT
from deploy.local.rabbitmq import RabbitPorts, rabbitmq_server
from deploy.local.servers import Server
from deploy.local.valkey import valkey_server

GIVEN_BY = {"postgres": "POSTGRES_ADMIN_URL", "rabbitmq": "RABBITMQ_URL", "redis": "REDIS_URL"}

# Images are pulled the first time.
COMPOSE_UP_SECONDS = 900

COMPOSE = ("docker", "compose", "-f", str(ROOT / "deploy" / "compose.yaml"))


@dataclass(frozen=True)
class Infrastructure:
    urls: Mapping[str, str]
    """By name: postgres (an administrator's), rabbitmq, redis."""

    servers: tuple[Server, ...] = ()
    """Those that are programs of ours, in the order in which they start."""

    otlp_endpoint: str | None = None


def choose(config: Config) -> Infrastructure:
    """Decides and prepares; containers are up when it returns, servers of our own are not started yet."""
    given = {name: config.env[variable] for name, variable in GIVEN_BY.items() if config.env.get(variable)}
    missing = [name for name in GIVEN_BY if name not in given]
    for name in given:
        print(f"{name}: as {GIVEN_BY[name]} says")
    if not missing:
        return Infrastructure(given)
    if _uses_docker(config):
        print(f"{', '.join(missing)}: with Docker Compose", flush=True)
        return _containers(config, given, missing)
    print(f"{', '.join(missing)}: our own, under {config.run_dir}", flush=True)
    return _embedded(config, given, missing)


def _uses_docker(config: Config) -> bool:
    """Decided once, because the data stays where it is; `make clean` forgets it."""
    kept = config.run_dir / "infrastructure"
    if not kept.exists():
        kept.write_text("docker" if docker_answers() else "embedded")
    return containers_in_use(config)


def _embedded(config: Config, urls: dict[str, str], missing: list[str]) -> Infrastructure:
    run_dir, passwords = config.run_dir, config.secrets
    makers: dict[str, Callable[[], Server]] = {
        "rabbitmq": lambda: rabbitmq_server(
            run_dir, _rabbit_ports(config), passwords["RABBITMQ_PASSWORD"], config.env.get("RABBITMQ_HOME")
        ),
        "redis": lambda: valkey_server(run_dir, config.port("REDIS_PORT"), passwords["REDIS_PASSWORD"]),
        "postgres": lambda: postgres_server(run_dir, config.port("POSTGRES_PORT"), passwords["POSTGRES_PASSWORD"]),
    }
    servers = {name: make() for name, make in makers.items() if name in missing}
    return Infrastructure({**urls, **{name: server.url for name, server in servers.items()}}, tuple(servers.values()))


def _rabbit_ports(config: Config) -> RabbitPorts:
    return RabbitPorts(
        amqp=config.port("RABBITMQ_PORT"),
        distribution=config.port("RABBITMQ_DISTRIBUTION_PORT"),
        epmd=config.port("EPMD_PORT"),
        management=config.port("RABBITMQ_MANAGEMENT_PORT"),
    )


def _containers(config: Config, urls: dict[str, str], missing: list[str]) -> Infrastructure:
    compose(config, "up", "--detach", "--wait", *missing, "jaeger")
    password = {name: config.secrets[f"{name}_PASSWORD"] for name in ("POSTGRES", "RABBITMQ", "REDIS")}
    ours = {
        "postgres": f"postgresql://postgres:{password['POSTGRES']}@127.0.0.1:{config.port('POSTGRES_PORT')}/postgres",
        "rabbitmq": f"amqp://ollamamax:{password['RABBITMQ']}@127.0.0.1:{config.port('RABBITMQ_PORT')}/",
        "redis": f"redis://:{password['REDIS']}@127.0.0.1:{config.port('REDIS_PORT')}/0",
    }
    return Infrastructure({**ours, **urls}, (), f"http://127.0.0.1:{config.port('OTLP_PORT')}")


def compose(config: Config, *arguments: str) -> None:
    """Run Docker Compose on our file. Raises ``SetupError``."""
    env = {**config.env, **config.secrets}
    try:
        subprocess.run([*COMPOSE, *arguments], check=True, timeout=COMPOSE_UP_SECONDS, env=env)
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"docker compose {arguments[0]} failed: its own message is above ({error})") from error


def containers_in_use(config: Config) -> bool:
    kept = config.run_dir / "infrastructure"
    return kept.exists() and kept.read_text() == "docker"
