"""Auth's doors on the bus, one module for each resource."""

from libs.common.bus.base import Handlers
from services.auth.handlers import (
    audit,
    identity,
    invitations,
    keys,
    limits,
    members,
    organizations,
    privacy,
    roles,
    second_factor,
    sessions,
    usage,
    users,
)

handlers = Handlers.joined(
    "auth",
    identity.handlers,
    sessions.handlers,
    users.handlers,
    keys.handlers,
    audit.handlers,
    limits.handlers,
    usage.handlers,
    organizations.handlers,
    members.handlers,
    invitations.handlers,
    roles.handlers,
    second_factor.handlers,
    privacy.handlers,
)
