"""Settings of auth, prefix AUTH_."""

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from libs.common.settings import ServiceSettings, service_settings


def _is_32_bytes(secret: SecretStr) -> SecretStr:
    try:
        length = len(base64.b64decode(secret.get_secret_value(), validate=True))
    except binascii.Error:
        length = 0
    if length != 32:
        raise ValueError("must be 32 random bytes in base64, as from: openssl rand -base64 32")
    return secret


class Settings(ServiceSettings):
    model_config = service_settings("AUTH_")

    ops_port: int = Field(11441, ge=0, le=65535, description="port of health and metrics; 0: any free one")
    secret_key: Annotated[SecretStr, AfterValidator(_is_32_bytes)] = Field(
        description="32 bytes in base64; seals the private keys in the database, so all replicas share it"
    )
    admin_email: str | None = Field(None, description="the first admin, created when there is none")
    admin_password: SecretStr | None = Field(None, min_length=8, description="the first admin's password")
    token_seconds: int = Field(900, ge=1, le=86_400, description="how long an access token is good for")
    bcrypt_rounds: int = Field(12, ge=4, le=16, description="cost of a password hash; one more doubles it")
    max_keys_per_user: int = Field(100, ge=1, description="API keys a user may have that are not revoked")

    def sealing_key(self) -> bytes:
        return base64.b64decode(self.secret_key.get_secret_value())
