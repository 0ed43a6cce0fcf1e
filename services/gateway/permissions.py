"""May this caller do that, and may it know of this model? Pure; the door of every route asks here."""

from libs.common import model_patterns
from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.permissions import Permission
from libs.common.errors import Forbidden


def check(caller: Identity, permission: Permission) -> None:
    """Raises ``Forbidden``."""
    if permission not in caller.permissions:
        raise Forbidden(f"forbidden: this needs the permission {permission}")


def whose(caller: Identity, of_others: Permission, asked: str | None = None) -> str | None:
    """Whose things the caller gets: those of the user ``asked`` for, or (None) everybody's.

    Raises ``Forbidden`` for those of others without the permission.
    """
    if of_others in caller.permissions:
        return asked
    if asked not in (None, caller.user_id):
        check(caller, of_others)
    return caller.user_id


def may_see(caller: Identity, model: str) -> bool:
    """Whether a model of this display name exists for the caller."""
    return model_patterns.match_all(caller.models, model)
