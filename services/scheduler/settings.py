"""Settings of the scheduler, prefix SCHEDULER_."""

from typing import Annotated

from pydantic import Field, SecretStr

from libs.common.sealing import Ring, SealingKey, SealingKeys
from libs.common.settings import Alias, ServiceSettings, service_settings


class Settings(ServiceSettings):
    model_config = service_settings("SCHEDULER_")

    ops_port: int = Field(11443, ge=0, le=65535, description="port of health and metrics; 0: any free one")
    max_waiting: Annotated[int, Alias("OLLAMA_MAX_QUEUE")] = Field(
        512, ge=1, le=50_000, description="requests that may wait, 50,000 at most; one more is refused with 503"
    )
    max_waiting_tokens: int = Field(
        10_000_000,
        ge=1,
        description="tokens, prompts and answers as estimated, that may wait; more are refused with 503",
    )
    batch_ageing_seconds: float = Field(
        300.0, ge=0, description="a batch request older than this competes as an interactive one"
    )
    max_attempts: int = Field(
        5, ge=1, le=100, description="workers or engines that one request may lose before it is given up"
    )
    worker_silence_seconds: float = Field(3.0, gt=0, description="a worker not heard for this long is taken for lost")
    no_worker_seconds: float = Field(
        30.0, ge=0, description="how long a request waits while no worker could ever run it"
    )
    secret_key: SealingKey = Field(
        description="32 bytes in base64; seals the prompts and answers that are kept, so all replicas share it"
    )
    old_secret_keys: SealingKeys = Field(
        SecretStr(""), description="comma separated; keys from before, until the log says that all is sealed anew"
    )
    exchange_days: int = Field(30, ge=1, le=3650, description="prompts and answers are kept this long, where they are")
    journal_batch_size: int = Field(200, ge=1, le=5000, description="rows written to the journal at once")

    def sealing(self) -> Ring:
        return Ring.of(self.secret_key, self.old_secret_keys)
