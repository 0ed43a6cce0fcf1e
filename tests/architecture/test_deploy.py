"""What no Docker engine ran here is at least read by real parsers."""

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyOptions

from deploy.env_example import FILE, SERVICES
from deploy.local.config import DEFAULT_PORTS, Config
from deploy.local.infrastructure import Infrastructure
from deploy.local.services import health_url, service_programs
from libs.common.settings import Alias, PostgresSettings, RabbitSettings, RedisSettings, TelemetrySettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = (DEPLOY / "compose.yaml").read_text()

SECRETS = {
    **{f"{name.upper()}_DB_PASSWORD": "p" for name in SERVICES},
    **dict.fromkeys(("AUTH_ADMIN_PASSWORD", "AUTH_SECRET_KEY", "BLOB_TOKEN"), "secret"),
    **dict.fromkeys(("GATEWAY_SECRET_KEY", "SCHEDULER_SECRET_KEY"), "secret"),
}
SERVERS = Infrastructure({"postgres": "postgresql://a:b@h:1/x", "rabbitmq": "amqp://r/", "redis": "redis://r/0"})


def interpolated(text: str) -> str:
    """As Compose does it before it parses: defaults for what is optional, something for what is required."""
    return re.sub(r"\$\{\w+:([-?])([^}]*)\}", lambda match: match[2] if match[1] == "-" else "secret", text)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed = PyOptions(apply_merge=True).from_yaml(interpolated(COMPOSE))
    parsed.validate()
    parsed.to_spec()
    document: dict[str, Any] = yaml.safe_load(COMPOSE)
    return document


def test_compose_has_everything(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {*SERVICES, "postgres", "rabbitmq", "redis", "jaeger", "setup"}


def published(port: str | dict[str, Any]) -> str:
    """``address:port``; of a range the first."""
    text = f"{port['host_ip']}:{port['published']}" if isinstance(port, dict) else interpolated(port)
    return ":".join(text.split(":")[:2]).partition("-")[0]


def test_compose_publishes_on_loopback_and_above_11111_only(compose: dict[str, Any]) -> None:
    ports = [published(port).split(":") for each in compose["services"].values() for port in each.get("ports", [])]
    assert {address for address, _ in ports} == {"127.0.0.1"}
    assert min(int(port) for _, port in ports) > 11111


def test_compose_holds_no_secret_and_names_each_in_the_example(compose: dict[str, Any]) -> None:
    needed = FILE.read_text().partition("# ---- Docker Compose, which needs all of these")[2].partition("\n# ---- ")[0]
    assert set(re.findall(r"^#(\w+)=", needed, re.MULTILINE)) == set(re.findall(r"\$\{(\w+):\?", COMPOSE))
    for service in compose["services"].values():
        secret = {name: value for name, value in service.get("environment", {}).items() if name.endswith("PASSWORD")}
        assert all(str(value).startswith("${") for value in secret.values())


@pytest.mark.parametrize("service", SERVICES)
def test_compose_tells_a_service_what_it_requires(compose: dict[str, Any], service: str) -> None:
    environment = compose["services"][service]["environment"]
    fields = import_module(f"services.{service}.settings").Settings.model_fields
    required = {f"{service}_{name}".upper() for name, field in fields.items() if field.is_required()}
    assert required <= set(environment)
    known = {f"{service}_{name}".upper() for name in fields}
    assert {name for name in environment if name.startswith(f"{service.upper()}_")} <= known


@pytest.mark.parametrize("service", SERVICES)
def test_compose_passes_on_what_concerns_a_service_and_nothing_of_the_others(
    compose: dict[str, Any], service: str
) -> None:
    environment = compose["services"][service]["environment"]
    fields = import_module(f"services.{service}.settings").Settings.model_fields
    names = {f"{service}_{name}".upper(): field for name, field in fields.items()}
    assert set(names) - {f"{service.upper()}_INSTANCE"} <= set(environment)
    open_to_all = [field for name, field in names.items() if environment.get(name, "chosen here") is None]
    aliases = {alias.variable for field in open_to_all for alias in field.metadata if isinstance(alias, Alias)}
    assert {name for name in environment if name.startswith("OLLAMA_")} == aliases
    others = tuple(f"{other.upper()}_" for other in SERVICES if other != service)
    assert not [name for name in environment if name.startswith(others)]


def test_compose_passes_on_what_all_services_share(compose: dict[str, Any]) -> None:
    blocks = (PostgresSettings, RabbitSettings, RedisSettings, TelemetrySettings)
    shared = {f"{block.model_config['env_prefix']}{name}".upper() for block in blocks for name in block.model_fields}
    for service in SERVICES:
        assert shared - {"POSTGRES_URL"} <= set(compose["services"][service]["environment"])


@pytest.mark.parametrize(("service", "door"), [("gateway", 11436), ("scheduler", 11443), ("worker", 11444)])
def test_compose_has_ports_for_several_of_them(compose: dict[str, Any], service: str, door: int) -> None:
    ranges = [port for port in compose["services"][service]["ports"] if isinstance(port, dict)]
    assert [(port["target"], "-" in port["published"]) for port in ranges] == [(door, True)]


def test_the_dockerfile_passes_hadolint() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None
    command = [hadolint, str(DEPLOY / "Dockerfile")]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", [DEPLOY / "bootstrap.sh", ROOT / ".ci" / "run"])
def test_scripts_are_valid_and_executable(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)


def programs(tmp_path: Path, **env: str) -> dict[str, Any]:
    config = Config(tmp_path, env, SECRETS, workers=3)
    return {program.name: program for program in service_programs(config, SERVERS)}


def test_the_runner_gives_each_service_its_own_role_and_no_worker_any(tmp_path: Path) -> None:
    urls = {name: program.env.get("POSTGRES_URL") for name, program in programs(tmp_path).items()}
    roles = ("gateway", "auth", "registry", "scheduler")
    assert urls == {
        **{role: f"postgresql://{role}:p@h:1/ollamamax" for role in roles},
        **dict.fromkeys(("worker-1", "worker-2", "worker-3")),
    }


def test_the_runner_passes_on_what_concerns_a_service_and_nothing_else(tmp_path: Path) -> None:
    started = programs(tmp_path, WORKER_SLOTS="3", REDIS_LOG_TTL_SECONDS="60", POSTGRES_ADMIN_URL="x", AWS_KEY="y")
    assert started["worker-2"].env["WORKER_SLOTS"] == "3"
    assert "WORKER_SLOTS" not in started["gateway"].env
    assert all(program.env["REDIS_LOG_TTL_SECONDS"] == "60" for program in started.values())
    assert not {"POSTGRES_ADMIN_URL", "AWS_KEY"} & {name for program in started.values() for name in program.env}


def test_every_program_has_its_own_port(tmp_path: Path) -> None:
    urls = [health_url(program) for program in programs(tmp_path).values()]
    assert len(set(urls)) == len(urls)
    assert len(set(DEFAULT_PORTS.values())) == len(DEFAULT_PORTS)


@pytest.mark.parametrize(("host", "anonymous"), [("127.0.0.1", "true"), ("::1", "true"), ("0.0.0.0", "false")])
def test_nobody_is_anonymous_beyond_loopback(tmp_path: Path, host: str, anonymous: str) -> None:
    assert programs(tmp_path, GATEWAY_HOST=host)["gateway"].env["GATEWAY_ANONYMOUS"] == anonymous
