"""Which role may do what. Pure; the door of every route asks here."""

from enum import StrEnum
from typing import Final

from libs.common.contracts.auth import Identity
from libs.common.errors import Forbidden


class Permission(StrEnum):
    MODEL_READ = "model:read"
    MODEL_MANAGE = "model:manage"
    INFERENCE_RUN = "inference:run"


_READING: Final = frozenset({Permission.MODEL_READ})
_USING: Final = _READING | {Permission.INFERENCE_RUN}
_MANAGING: Final = _USING | {Permission.MODEL_MANAGE}

ROLES: Final = {"admin": _MANAGING, "operator": _MANAGING, "user": _USING, "readonly": _READING}
"""A role that is not here may do nothing."""


def check(caller: Identity, permission: Permission) -> None:
    """Raises ``Forbidden``."""
    if permission not in ROLES.get(caller.role, ()):
        raise Forbidden(f"forbidden: this needs the permission {permission}")
