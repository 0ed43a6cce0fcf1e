"""Settings of the gateway, prefix GATEWAY_."""

import ipaddress
from typing import Annotated

from pydantic import Field, SecretStr

from libs.common import ollama_variables
from libs.common.settings import Alias, CommaSeparated, ServiceSettings, service_settings


class Settings(ServiceSettings):
    model_config = service_settings("GATEWAY_")

    ops_port: int = Field(11436, ge=0, le=65535, description="port of health and metrics; 0: any free one")
    host: Annotated[str, Alias("OLLAMA_HOST", ollama_variables.host)] = Field(
        "127.0.0.1", description="address of the public API"
    )
    port: Annotated[int, Alias("OLLAMA_HOST", ollama_variables.port)] = Field(
        11434, ge=0, le=65535, description="port of the public API; 0: any free one"
    )
    anonymous: bool = Field(False, description="no credentials needed for the Ollama routes, on loopback only")
    anonymous_beyond_loopback: bool = Field(False, description="with ANONYMOUS: also where HOST is no loopback address")
    anonymous_organization: str = Field("default", description="the organization of callers without credentials")
    origins: Annotated[CommaSeparated, Alias("OLLAMA_ORIGINS")] = Field(
        (), description="more browser origins, comma separated, * matches anything"
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
    request_deadline_seconds: float = Field(600.0, gt=0, description="an inference request has ended by then")
    ollama_version: str = Field("0.33.0", description="what /api/version says; clients gate features on it")

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
