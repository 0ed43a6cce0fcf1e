"""What a caller may do: the permissions, and the roles that are always there. Auth grants, the gateway's doors ask."""

from enum import StrEnum
from typing import Final


class Permission(StrEnum):
    """``<what>:<may do>``, all within the caller's organization; those of ``INSTALLATION`` reach beyond it."""

    SELF_READ = "self:read"
    """One's own profile, sessions, keys, requests and usage."""

    SELF_MANAGE = "self:manage"
    MODEL_READ = "model:read"
    MODEL_MANAGE = "model:manage"
    INFERENCE_RUN = "inference:run"
    REQUEST_READ = "request:read"
    """Requests of others."""

    REQUEST_MANAGE = "request:manage"
    USAGE_READ = "usage:read"
    USER_READ = "user:read"
    USER_MANAGE = "user:manage"
    """Members, invitations, their sessions and keys."""

    ORGANIZATION_MANAGE = "organization:manage"
    """The organization's own settings, roles and limits."""

    AUDIT_READ = "audit:read"
    NODE_READ = "node:read"
    NODE_MANAGE = "node:manage"
    CLUSTER_READ = "cluster:read"
    CLUSTER_MANAGE = "cluster:manage"
    """Settings of the whole installation."""

    TENANT_MANAGE = "tenant:manage"
    """Organizations other than one's own: make, change and delete them."""


OPERATING_ORGANIZATION: Final = "default"
"""Runs the installation. An installation for a single team has no other."""

INSTALLATION: Final = frozenset(
    {
        Permission.NODE_READ,
        Permission.NODE_MANAGE,
        Permission.CLUSTER_READ,
        Permission.CLUSTER_MANAGE,
        Permission.TENANT_MANAGE,
    }
)
"""Held by members of the operating organization only, whatever their role elsewhere says."""

_OWN: Final = frozenset({Permission.SELF_READ, Permission.SELF_MANAGE, Permission.MODEL_READ})
_LOOKING: Final = frozenset(
    {Permission.NODE_READ, Permission.CLUSTER_READ, Permission.USAGE_READ, Permission.REQUEST_READ}
)
_MANAGING: Final = frozenset(
    {Permission.MODEL_MANAGE, Permission.REQUEST_MANAGE, Permission.NODE_MANAGE, Permission.INFERENCE_RUN}
)

ROLES: Final = {
    "admin": frozenset(Permission),
    "operator": _OWN | _LOOKING | _MANAGING,
    "user": _OWN | {Permission.INFERENCE_RUN},
    "readonly": _OWN | _LOOKING,
}
"""The roles that are always there. An organization may have more of its own."""


def effective(granted: frozenset[Permission], organization_id: str) -> frozenset[Permission]:
    """What of a role's permissions counts in this organization."""
    return granted if organization_id == OPERATING_ORGANIZATION else granted - INSTALLATION
