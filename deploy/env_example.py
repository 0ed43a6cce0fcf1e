"""Writes ``deploy/.env.example`` from the settings classes: ``python -m deploy.env_example`` (a test compares)."""

import json
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from deploy.local.config import DEFAULT_PORTS
from libs.common.settings import Alias, PostgresSettings, RabbitSettings, RedisSettings, TelemetrySettings

FILE = Path(__file__).with_name(".env.example")

SERVICES = ("gateway", "auth", "registry", "scheduler", "worker")

HEAD = """\
# Every setting with its default. `make up` reads a file `.env` at the root of the repository, Docker Compose one in
# deploy/; a service by itself reads its environment. An empty value counts as unset.
# Written by `python -m deploy.env_example`.
"""

RUNNER = """
# ---- make up
# servers to use instead of our own; the first one may create roles and databases
#POSTGRES_ADMIN_URL=
#RABBITMQ_URL=
#REDIS_URL=
# how many workers; as many as last time if unset
#WORKERS=1
# where RabbitMQ is installed, if not in the usual place
#RABBITMQ_HOME=
"""

COMPOSE = """
# ---- Docker Compose, which needs all of these; `make up` makes its own in .run/secrets.env
# passwords that become parts of URLs: letters and digits
#POSTGRES_PASSWORD=
#RABBITMQ_PASSWORD=
#REDIS_PASSWORD=
#GATEWAY_DB_PASSWORD=
#AUTH_DB_PASSWORD=
#REGISTRY_DB_PASSWORD=
#SCHEDULER_DB_PASSWORD=
# what workers and gateways show the registry to fetch and store models, 16 characters or more
#BLOB_TOKEN=
# the first admin's, 8 characters or more
#AUTH_ADMIN_PASSWORD=
# each of them 32 bytes in base64, as from `openssl rand -base64 32`
#AUTH_SECRET_KEY=
#GATEWAY_SECRET_KEY=
#SCHEDULER_SECRET_KEY=

# ---- Docker Compose, if it should be otherwise
# after it a container that should stop is killed: longer than any *_DRAIN_SECONDS
#STOP_GRACE_PERIOD=45s
"""


def render() -> str:
    shared: dict[str, type[BaseSettings]] = {
        "Postgres, for each service that has tables": PostgresSettings,
        "RabbitMQ": RabbitSettings,
        "Redis": RedisSettings,
        "OpenTelemetry": TelemetrySettings,
    }
    services = {name: import_module(f"services.{name}.settings").Settings for name in SERVICES}
    ports = [f"#{name}={port}" for name, port in DEFAULT_PORTS.items() if not name.endswith("_OPS_PORT")]
    sections = [_section(title, block) for title, block in {**shared, **services}.items()]
    return (
        HEAD
        + RUNNER
        + "# ports of the servers and of the API\n"
        + "\n".join(ports)
        + "\n"
        + COMPOSE
        + "".join(sections)
    )


def _section(title: str, block: type[BaseSettings]) -> str:
    prefix = block.model_config["env_prefix"]
    settings = (_setting(f"{prefix}{name}".upper(), field) for name, field in block.model_fields.items())
    return f"\n# ---- {title}\n" + "".join(settings)


def _setting(name: str, field: FieldInfo) -> str:
    comments = [field.description] if field.description else []
    comments += [f"also {alias.variable}" for alias in field.metadata if isinstance(alias, Alias)]
    if field.is_required():
        comments.append("required")
    elif field.default_factory is not None:
        comments.append("if unset, found out at the start")
    comment = f"# {'; '.join(comments)}\n" if comments else ""
    return f"{comment}#{name}={_default(field)}\n"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined or field.default is None:
        return ""
    if hasattr(field.default, "get_secret_value"):
        return str(field.default.get_secret_value())
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, Iterable) and not isinstance(field.default, str):
        return json.dumps(field.default) if field.default else ""
    return str(field.default)


if __name__ == "__main__":
    FILE.write_text(render())
