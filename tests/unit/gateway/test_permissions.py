import pytest

from libs.common.contracts.auth import Identity
from libs.common.errors import Forbidden
from services.gateway.permissions import Permission, check

ALLOWED = [
    ("admin", {"model:read", "model:manage", "inference:run"}),
    ("operator", {"model:read", "model:manage", "inference:run"}),
    ("user", {"model:read", "inference:run"}),
    ("readonly", {"model:read"}),
    ("a role of a newer version", set()),
]


@pytest.mark.parametrize("permission", Permission)
@pytest.mark.parametrize(("role", "allowed"), ALLOWED)
def test_what_a_role_may_do(role: str, allowed: set[str], permission: Permission) -> None:
    caller = Identity(organization_id="o", user_id="u", role=role)
    if permission in allowed:
        check(caller, permission)
        return
    with pytest.raises(Forbidden, match=permission):
        check(caller, permission)
