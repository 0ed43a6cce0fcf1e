import pytest

from libs.common.contracts.permissions import INSTALLATION, ROLES, Permission, effective
from libs.common.errors import Forbidden
from services.gateway.permissions import check, may_see
from tests.fixtures.builders import an_identity

OWN = {"self:read", "self:manage", "model:read"}
LOOKING = {"node:read", "cluster:read", "usage:read", "request:read"}
ALLOWED = [
    ("admin", set(Permission)),
    ("operator", OWN | LOOKING | {"model:manage", "request:manage", "node:manage", "inference:run"}),
    ("user", OWN | {"inference:run"}),
    ("readonly", OWN | LOOKING),
]


def test_every_role_is_tested() -> None:
    assert {role for role, _ in ALLOWED} == set(ROLES)


@pytest.mark.parametrize("permission", Permission)
@pytest.mark.parametrize(("role", "allowed"), ALLOWED)
def test_what_a_role_may_do(role: str, allowed: set[str], permission: Permission) -> None:
    caller = an_identity(role)
    if permission in allowed:
        check(caller, permission)
        return
    with pytest.raises(Forbidden, match=permission):
        check(caller, permission)


@pytest.mark.parametrize("permission", Permission)
def test_a_role_alone_allows_nothing(permission: Permission) -> None:
    with pytest.raises(Forbidden):
        check(an_identity("admin", permissions=frozenset()), permission)


def test_a_permission_of_a_newer_version_does_no_harm() -> None:
    caller = an_identity(permissions=frozenset({"model:read", "model:paint"}))
    check(caller, Permission.MODEL_READ)


@pytest.mark.parametrize("role", ROLES)
def test_the_installation_belongs_to_its_own_organization(role: str) -> None:
    assert effective(ROLES[role], "default") == ROLES[role]
    assert effective(ROLES[role], "acme") == ROLES[role] - INSTALLATION


def test_what_reaches_beyond_an_organization() -> None:
    assert {"node:read", "node:manage", "cluster:read", "cluster:manage", "tenant:manage"} == INSTALLATION


@pytest.mark.parametrize(
    ("groups", "model", "seen"),
    [
        ((), "m:latest", True),
        ((("*",),), "m:latest", True),
        ((("M",),), "m:latest", True),
        ((("m",),), "m:8b", False),
        ((("m:8b",),), "m:latest", False),
        ((("m:latest",),), "m", True),
        ((("host:5000/*:latest",),), "host:5000/ns/m", True),
        ((("m:latest",),), "m:8b", False),
        ((("llama*", "qwen*"),), "qwen3:8b", True),
        ((("llama*", "qwen*"),), "m:latest", False),
        ((("LLama*",),), "llAMA3:8b", True),
        ((("llama*",), ("*:8b",)), "llama3:8b", True),
        ((("llama*",), ("*:8b",)), "llama3:70b", False),
        (((),), "m:latest", False),
    ],
)
def test_models_match_one_pattern_of_each_group(groups: tuple[tuple[str, ...], ...], model: str, seen: bool) -> None:
    assert may_see(an_identity(models=groups), model) is seen
