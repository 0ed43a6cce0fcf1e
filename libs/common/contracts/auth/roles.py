"""Roles: what members may do. Four are always there; an organization may have more of its own."""

from typing import Annotated, Final

from pydantic import Field

from libs.common.contracts.message import Query, Value
from libs.common.contracts.paging import Page, PageRequest
from libs.common.contracts.permissions import Permission

MOST_PATTERNS: Final = 50
ModelPattern = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.:/@*?-]+$")]
"""``*`` and ``?`` as in the shell, of models' names as they are listed: ``llama3*``, ``team/*:8b``. No tag: latest."""

ModelPatterns = Annotated[tuple[ModelPattern, ...], Field(max_length=MOST_PATTERNS)]
Permissions = Annotated[frozenset[Permission], Field(max_length=len(Permission))]

ROLE_NAME: Final = r"^[a-z][a-z0-9-]{0,62}$"


class Role(Value):
    name: str
    description: str = ""
    permissions: frozenset[str] = Field(description="those that count in this organization")
    models: tuple[str, ...] = Field((), description="patterns of the models it may know of; empty: all")
    built_in: bool = Field(False, description="always there, and always the same")
    version: int = 1


class ListRoles(Query[Page[Role]]):
    """By name."""

    organization_id: str
    paging: PageRequest = PageRequest()


class GetRole(Query[Role]):
    organization_id: str
    name: str


class CreateRole(Query[Role]):
    """``Conflict`` if the name is taken, ``Forbidden`` for permissions or models that the caller has not."""

    organization_id: str
    name: Annotated[str, Field(pattern=ROLE_NAME)]
    description: str = ""
    permissions: Permissions
    models: ModelPatterns = ()


class UpdateRole(Query[Role]):
    """Effective at once. ``Conflict`` for one that is always there, else as ``CreateRole``."""

    organization_id: str
    name: str
    description: str = ""
    permissions: Permissions
    models: ModelPatterns = ()
    expected_version: int | None = None


class DeleteRole(Query[None]):
    """``Conflict`` while members or open invitations have it."""

    organization_id: str
    name: str
    expected_version: int | None = None
