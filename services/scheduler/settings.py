"""Settings of the scheduler, prefix SCHEDULER_."""

from typing import Annotated

from pydantic import Field

from libs.common.settings import Alias, ServiceSettings, service_settings


class Settings(ServiceSettings):
    model_config = service_settings("SCHEDULER_")

    ops_port: int = Field(11443, ge=0, le=65535, description="port of health and metrics; 0: any free one")
    max_waiting: Annotated[int, Alias("OLLAMA_MAX_QUEUE")] = Field(
        512, ge=1, le=100_000, description="requests that may wait; one more is refused with 503"
    )
    max_attempts: int = Field(5, ge=1, le=100, description="grants of one request before it is given up")
    worker_silence_seconds: float = Field(3.0, gt=0, description="a worker not heard for this long is taken for lost")
    no_worker_seconds: float = Field(
        30.0, ge=0, description="how long a request waits while no worker could ever run it"
    )
    journal_batch_size: int = Field(200, ge=1, le=5000, description="rows written to the journal at once")
