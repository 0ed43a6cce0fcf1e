"""Settings of the worker, prefix WORKER_."""

import os
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, SecretStr

from libs.common import ollama_variables
from libs.common.settings import Alias, ServiceSettings, service_settings

Capability = Literal["completion", "embedding", "rerank", "tools", "thinking", "vision", "insert"]


class UpstreamSettings(BaseModel):
    """One OpenAI-compatible server and the model names it answers to."""

    pattern: str = Field(description="shell-style, as mock-*")
    base_url: str = Field(description="as http://host:8000/v1")
    api_key: SecretStr = SecretStr("")
    model: str = Field("", description="the upstream's name for it; empty: as asked")
    capabilities: tuple[Capability, ...] = Field(
        ("completion", "embedding", "tools"), description="what its models can do: the protocol does not tell"
    )


class Settings(ServiceSettings):
    model_config = service_settings("WORKER_")

    ops_port: int = Field(11444, ge=0, le=65535, description="port of health and metrics; 0: any free one")
    node: str = Field(default_factory=socket.gethostname, description="name of the machine")
    region: str = Field("", max_length=100, description="where the machine stands, as people will see it")
    zone: str = Field("", max_length=100, description="part of the region")
    cache_dir: Path = Field(Path(".run/cache"), description="verified blobs; workers of one machine may share it")
    blob_token: SecretStr = Field(
        SecretStr(""), description="opens the registry's blobs; the same as REGISTRY_BLOB_TOKEN"
    )
    link_blobs: bool = Field(
        True, description="share the file of a registry on the same disk; false: a copy of its own, independent of it"
    )
    peer_host: str = Field("127.0.0.1", description="address on which other workers fetch blobs from this one")
    peer_port: int = Field(14001, ge=1, le=65535, description="port on which other workers fetch blobs from this one")
    peer_url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="where other workers reach it; empty: from peer_host and peer_port",
    )
    peer_transfers: int = Field(8, ge=1, le=256, description="chunks of 4 MiB sent to other workers at once")
    peer_bytes_per_second: int = Field(0, ge=0, description="bound on what is sent to other workers; 0: none")
    scrub_seconds: float = Field(86400.0, gt=0, description="a blob on the disk is verified again after this long")
    scrub_bytes_per_second: int = Field(20_000_000, ge=1_000_000, description="how fast blobs are verified again")
    slots: int = Field(
        16, ge=1, le=4096, description="requests run at once, over all models; at least those of one model"
    )
    slots_per_model: Annotated[int, Alias("OLLAMA_NUM_PARALLEL")] = Field(
        4, ge=1, le=1024, description="requests run at once by one loaded model"
    )
    max_loaded_models: Annotated[int, Alias("OLLAMA_MAX_LOADED_MODELS")] = Field(
        3, ge=1, le=1000, description="models in memory at once"
    )
    memory_bytes: int = Field(
        0, ge=0, description="bytes that models in memory may take together; 0: what the machine or its container has"
    )
    context_length: Annotated[int, Alias("OLLAMA_CONTEXT_LENGTH")] = Field(
        4096, ge=4, description="default num_ctx in tokens, per slot"
    )
    max_context_length: int = Field(32768, ge=4, description="largest num_ctx a request can have, per slot")
    keep_alive_seconds: Annotated[float, Alias("OLLAMA_KEEP_ALIVE", ollama_variables.seconds)] = Field(
        300.0, description="an idle model is unloaded after this long; negative: never"
    )
    load_timeout_seconds: Annotated[float, Alias("OLLAMA_LOAD_TIMEOUT", ollama_variables.timeout_seconds)] = Field(
        300.0, gt=0, description="a load has failed after this long and a second for each 20 MB of the model"
    )
    engine_silence_seconds: float = Field(
        60.0, gt=0, description="an engine that works and tells nothing for this long is killed; its requests go on"
    )
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, description="CPU threads of one model")
    echo: bool = Field(False, description="serve the echo engine (models echo*), for tests and benchmarks")
    upstreams: tuple[UpstreamSettings, ...] = Field((), description="JSON list of OpenAI-compatible servers")

    @property
    def longest_context(self) -> int:
        return max(self.context_length, self.max_context_length)

    @property
    def peers_url(self) -> str:
        reachable = socket.gethostname() if self.peer_host in ("0.0.0.0", "::") else self.peer_host
        reachable = f"[{reachable}]" if ":" in reachable else reachable
        return (self.peer_url or f"http://{reachable}:{self.peer_port}").rstrip("/")
