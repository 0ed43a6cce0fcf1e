"""Settings blocks every service shares. Names carry their unit; secrets are ``SecretStr``; read once, then frozen."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from uuid import uuid4

import structlog
from pydantic import BeforeValidator, Field, PostgresDsn, RedisDsn, SecretStr, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from libs.common.ollama_variables import unquoted

log = structlog.get_logger(__name__)


def service_settings(prefix: str) -> SettingsConfigDict:
    """Environment variables with this prefix; an empty variable counts as unset."""
    return SettingsConfigDict(env_prefix=prefix, frozen=True, extra="ignore", env_ignore_empty=True)


Block = TypeVar("Block", bound=BaseSettings)


def load(block: type[Block]) -> Block:
    """From the environment. Raises ``SystemExit`` with a line for each missing or wrong variable, never its value."""
    try:
        return block()
    except ValidationError as error:
        prefix = block.model_config["env_prefix"]
        lines = [f"{prefix}{'_'.join(map(str, each['loc']))}".upper() + f": {each['msg']}" for each in error.errors()]
        raise SystemExit("\n".join(lines)) from None


class PostgresSettings(BaseSettings):
    model_config = service_settings("POSTGRES_")

    url: SecretStr = Field(description="postgresql://role:password@host:port/database, the service's own role")
    pool_max_size: int = Field(10, ge=2, le=200, description="connections per process")
    statement_timeout_ms: int = Field(10_000, ge=100, description="no statement of ours takes longer")


class RabbitSettings(BaseSettings):
    model_config = service_settings("RABBITMQ_")

    url: SecretStr = Field(description="amqp://user:password@host:port/vhost")
    heartbeat_seconds: int = Field(6, ge=2, le=60, description="a silent connection is given up after twice this")


class RedisSettings(BaseSettings):
    model_config = service_settings("REDIS_")

    url: SecretStr = Field(description="redis://[:password@]host:port/database")
    log_ttl_seconds: int = Field(3600, ge=10, description="an unfinished token log is kept this long")
    finished_log_ttl_seconds: int = Field(60, ge=1, description="a finished token log is kept this long")


class TelemetrySettings(BaseSettings):
    """The standard OTEL_ names; without an endpoint nothing is exported."""

    model_config = service_settings("OTEL_")

    exporter_otlp_endpoint: str | None = Field(None, description="http://host:4318; spans go to <endpoint>/v1/traces")
    traces_sampler_arg: float = Field(1.0, ge=0, le=1, description="share of requests that are traced")


@dataclass(frozen=True)
class Alias:
    """In a field's annotation: Ollama's variable for it, and how that is read. Ours wins over it.

    As in Ollama, a value that is none leaves the default.
    """

    variable: str
    read: Callable[[str], object] = str


class _Aliases(PydanticBaseSettingsSource):
    """The settings that have a value under Ollama's name."""

    def __call__(self) -> dict[str, Any]:
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, _ = self.get_field_value(field, name)
            if value is not None:
                found[name] = value
        return found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        for alias in field.metadata:
            if isinstance(alias, Alias) and (text := unquoted(os.environ.get(alias.variable, ""))):
                return _value(field, alias, text), field_name, False
        return None, field_name, False


def _value(field: FieldInfo, alias: Alias, text: str) -> Any:
    """As the setting takes it; None if it does not."""
    try:
        setting: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, *field.metadata])  # type: ignore[arg-type]
        return setting.validate_python(alias.read(text))
    except (ValueError, OverflowError):  # pydantic's is the first, too
        log.warning("the value of a variable is not one, its default is used", variable=alias.variable)
        return None


class ServiceSettings(BaseSettings):
    """What every service has under its own prefix."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _Aliases(settings_cls)

    ops_host: str = Field("127.0.0.1", description="address of health and metrics")
    ops_port: int = Field(ge=0, le=65535, description="port of health and metrics; 0: any free one")
    instance: str = Field(default_factory=lambda: uuid4().hex[:12], description="id of this process; new at each start")
    drain_seconds: float = Field(30.0, ge=0, description="how long SIGTERM waits for running work")
    log_level: str = "INFO"


def _comma_separated(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]

__all__ = [
    "Alias",
    "CommaSeparated",
    "PostgresDsn",
    "PostgresSettings",
    "RabbitSettings",
    "RedisDsn",
    "RedisSettings",
    "ServiceSettings",
    "TelemetrySettings",
    "load",
    "service_settings",
]
