"""Settings of auth, prefix AUTH_."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from libs.common.sealing import Ring, SealingKey, SealingKeys
from libs.common.settings import ServiceSettings, service_settings


class Settings(ServiceSettings):
    model_config = service_settings("AUTH_")

    ops_port: int = Field(11441, ge=0, le=65535, description="port of health and metrics; 0: any free one")
    secret_key: SealingKey = Field(
        description="32 bytes in base64; seals the secrets in the database, so all replicas share it"
    )
    old_secret_keys: SealingKeys = Field(
        SecretStr(""), description="comma separated; keys from before, until the log says that all is sealed anew"
    )
    admin_email: str | None = Field(None, description="the first admin, created when there is none")
    admin_password: SecretStr | None = Field(None, min_length=8, description="the first admin's password")
    token_seconds: int = Field(900, ge=1, le=86_400, description="how long an access token is good for")
    refresh_days: int = Field(30, ge=1, le=365, description="a session that is not refreshed for so long has ended")
    session_days: int = Field(
        90, ge=1, le=3650, description="a session ends after so long, however often it is refreshed"
    )
    max_sessions_per_user: int = Field(
        50, ge=1, description="logins beyond it end the session that is unused for longest"
    )
    signing_key_days: int = Field(
        30, ge=1, le=3650, description="access tokens are signed with a new key after so long"
    )
    registration: Literal["closed", "invitation", "open"] = Field(
        "invitation", description="who may register: nobody, who was invited, or everybody"
    )
    invitation_days: int = Field(7, ge=1, le=365, description="how long an invitation is good for")
    password_min_length: int = Field(10, ge=8, le=100, description="characters of a new password")
    passwords_at_once: int = Field(2, ge=1, le=64, description="passwords that are checked at the same time")
    bcrypt_rounds: int = Field(12, ge=4, le=16, description="cost of a password hash; one more doubles it")
    max_keys_per_user: int = Field(100, ge=1, description="API keys a user may have that are not revoked")

    audit_retention_months: int = Field(
        0, ge=0, le=1200, description="months after which audit entries are archived and dropped; 0: never"
    )
    audit_archive_dir: Path | None = Field(None, description="where archived months of the audit log are written to")

    @model_validator(mode="after")
    def _has_room_for_archives(self) -> Self:
        if self.audit_retention_months and self.audit_archive_dir is None:
            raise ValueError("AUTH_AUDIT_RETENTION_MONTHS needs AUTH_AUDIT_ARCHIVE_DIR")
        return self

    def sealing(self) -> Ring:
        return Ring.of(self.secret_key, self.old_secret_keys)
