"""What the gateway announces, and the settings of the whole installation, which it keeps."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from libs.common.contracts.exports import ExportedRows
from libs.common.contracts.message import Event, Query, Value


class InferenceCancelled(Event):
    """Nobody waits for this request any more: whoever holds it lets go of it."""

    request_id: str


class ModelUnloadRequested(Event):
    """Every worker that has this model in memory drops it once it is idle."""

    name: str
    runner: str = Field("", description="``ModelRef.runner``")
    mark: str = Field("", description="every worker's next heartbeat, once that is done, carries it")


class HeartbeatRequested(Event):
    """Somebody asks what is in memory now: every worker says so at once."""

    mark: str = Field(description="carried by the heartbeat that answers")


class OperationCancelled(Event):
    """Nobody waits for this pull, push or create any more."""

    operation_id: str


Origin = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[!-+\--~]+$")]


class SystemConfig(Value):
    """Settings that may be changed while everything runs. What is null is as each service's environment says.

    A field means the setting of the same name in every service that has one.
    """

    request_deadline_seconds: float | None = Field(
        None, ge=1, le=86_400, allow_inf_nan=False, description="an inference request has ended by then"
    )
    max_waiting: int | None = Field(None, ge=1, le=100_000, description="requests that may wait; one more is refused")
    anonymous: bool | None = Field(None, description="no credentials needed for Ollama's routes, on loopback only")
    origins: tuple[Origin, ...] | None = Field(
        None, max_length=100, description="browser origins that may call, beside local ones; * matches anything"
    )
    registration: Literal["closed", "invitation", "open"] | None = Field(None, description="who may make an account")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = Field(None, description="of every service")


class ConfigVersion(Value):
    """What is in force; each change raises the version by one."""

    version: int
    config: SystemConfig


class GetConfig(Query[ConfigVersion]):
    """What is in force now."""


class ConfigChanged(Event):
    """Every process works by this from now on."""

    now: ConfigVersion


class UserFiles(Value):
    """What the gateway has of one user. What is in them, ``/v1/files`` and ``/v1/responses`` hand out."""

    files: ExportedRows
    batches: ExportedRows
    responses: ExportedRows = ExportedRows()


class ExportUser(Query[UserFiles]):
    user_id: str
    organization_id: str | None = Field(None, description="only what belongs to it; null: to any")
