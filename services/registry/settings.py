"""Settings of the registry, prefix REGISTRY_."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from libs.common import ollama_variables
from libs.common.settings import Alias, CommaSeparated, ServiceSettings, service_settings


class Settings(ServiceSettings):
    model_config = service_settings("REGISTRY_")

    ops_port: int = Field(11442, ge=0, le=65535, description="port of health, metrics and blobs; 0: any free one")
    data_dir: Annotated[Path, Alias("OLLAMA_MODELS")] = Field(
        description="directory of blobs and manifests, in Ollama's layout; replicas share it"
    )
    public_url: str = Field("", description="where workers reach the blobs; empty: http://127.0.0.1:<ops port>")
    blob_token: SecretStr = Field(
        min_length=16, description="opens the blobs to workers and gateways; their *_BLOB_TOKEN"
    )
    max_blob_bytes: int = Field(200 * 1024**3, ge=1024, description="largest blob that is taken")
    seed_models: dict[str, Path] = Field({}, description='GGUF files imported at start: {"name": "path"}')

    versions_kept: int = Field(5, ge=0, le=1000, description="earlier versions of each model to roll back to; 0: none")
    prune_after_seconds: float = Field(3600, ge=60, description="bytes that no model needs are kept this long")
    noprune: Annotated[bool, Alias("OLLAMA_NOPRUNE", ollama_variables.flag)] = Field(
        False, description="bytes that no model needs are kept for ever"
    )

    credentials: dict[str, SecretStr] = Field(
        {}, description='for other registries: {"host": "user:password or token"}; http://host for plain http'
    )
    allow_private_hosts: CommaSeparated = Field(
        (), description="pull and push reach public addresses, and these: hosts, addresses, networks, or *"
    )
    pull_max_bytes: int = Field(2_000_000_000_000, ge=1, description="a larger model is not pulled")
    transfer_streams: int = Field(16, ge=1, le=256, description="parts of blobs that are fetched at once")
    part_min_bytes: int = Field(100_000_000, ge=1, description="a smaller blob is fetched and sent in one part")
    part_max_bytes: int = Field(1_000_000_000, ge=1, description="no part is larger")
    stall_seconds: float = Field(30, gt=0, le=3600, description="a silent connection to another registry is given up")

    @property
    def blobs_url(self) -> str:
        return (self.public_url or f"http://127.0.0.1:{self.ops_port}").rstrip("/")
