"""Settings of the gateway, prefix GATEWAY_."""

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from libs.common import ollama_variables
from libs.common.sealing import Ring, SealingKey, SealingKeys
from libs.common.settings import Alias, CommaSeparated, ServiceSettings, service_settings


def _are_networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        ipaddress.ip_network(text)
    return texts


class Settings(ServiceSettings):
    model_config = service_settings("GATEWAY_")

    ops_port: int = Field(11436, ge=0, le=65535, description="port of health and metrics; 0: any free one")
    host: Annotated[str, Alias("OLLAMA_HOST", ollama_variables.host)] = Field(
        "127.0.0.1", description="address of the public API"
    )
    port: Annotated[int, Alias("OLLAMA_HOST", ollama_variables.port)] = Field(
        11434, ge=0, le=65535, description="port of the public API; 0: any free one"
    )
    share_port: bool = Field(
        False, description="the newest gateway takes over PORT, while older ones finish what they answer; Linux only"
    )
    anonymous: bool = Field(False, description="no credentials needed for models and what asks them, on loopback only")
    anonymous_beyond_loopback: bool = Field(False, description="with ANONYMOUS: also where HOST is no loopback address")
    anonymous_organization: str = Field("default", description="the organization of callers without credentials")
    origins: Annotated[CommaSeparated, Alias("OLLAMA_ORIGINS")] = Field(
        (), description="more browser origins, comma separated, * matches anything"
    )
    trusted_proxies: Annotated[CommaSeparated, AfterValidator(_are_networks)] = Field(
        (), description="networks of proxies whose X-Forwarded-For or Forwarded is believed, comma separated"
    )
    max_body_bytes: int = Field(32 * 1024 * 1024, ge=1024, description="largest request body")
    public_url: str = Field("", description="where clients reach the API, for links; empty: as in their Host header")
    registry_url: str = Field("http://127.0.0.1:11442", description="where the registry takes and gives blobs")
    blob_token: SecretStr = Field(
        min_length=16, description="opens the registry's blobs; the same as REGISTRY_BLOB_TOKEN"
    )
    operation_silence_seconds: float = Field(
        600.0, gt=0, description="a pull, push or create that nobody reports on for so long is given up"
    )
    transfers_per_caller: int = Field(
        32,
        ge=1,
        le=256,
        description="uploads, downloads and resumed answers a caller may have at once; and pulls, pushes and creates",
    )
    image_urls: bool = Field(False, description="images of requests may be named by http(s) URLs on public hosts")
    request_deadline_seconds: float = Field(600.0, gt=0, description="an inference request has ended by then")
    secret_key: SealingKey = Field(
        description="32 bytes in base64; seals files, lines of batches and stored responses, so all replicas share it"
    )
    old_secret_keys: SealingKeys = Field(
        SecretStr(""), description="comma separated; keys from before, until the log says that all is sealed anew"
    )
    file_bytes: int = Field(100 * 1024 * 1024, ge=1024, le=2**30, description="largest file of /v1/files")
    organization_file_bytes: int = Field(
        10 * 1024**3, ge=1024, description="bytes of all files that one organization keeps"
    )
    file_days: int = Field(30, ge=1, le=3650, description="files, and batches that have ended, are kept this long")
    batch_lines: int = Field(
        16,
        ge=0,
        le=1000,
        description="lines of batches that one gateway has under way at once, half of it of one organization; 0: none",
    )
    response_days: int = Field(
        30, ge=0, le=3650, description="stored responses of /v1/responses are kept this long; 0: none is stored"
    )
    organization_response_bytes: int = Field(
        10 * 1024**3, ge=1024, description="bytes of all stored responses of one organization; the oldest give way"
    )
    background_responses: int = Field(
        16,
        ge=0,
        le=1000,
        description="responses in the background that one gateway has under way at once, as of lines of batches",
    )
    ollama_version: str = Field("0.33.0", description="what /api/version says; clients gate features on it")

    def sealing(self) -> Ring:
        return Ring.of(self.secret_key, self.old_secret_keys)

    @property
    def on_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def admits_anonymous(self) -> bool:
        return self.anonymous and (self.on_loopback or self.anonymous_beyond_loopback)
