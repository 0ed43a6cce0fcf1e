"""Which patterns of models take in which others: nobody gives a key or role more models than they have."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import Forbidden
from services.auth.rights import covers, demand_models, demand_permissions
from tests.fixtures.builders import an_identity

patterns = st.text("ab*?", min_size=1, max_size=6)
names = st.text("ab", max_size=8)


@given(held=patterns, wanted=patterns, name=names)
def test_what_is_covered_has_no_name_more(held: str, wanted: str, name: str) -> None:
    if covers(held, wanted) and fnmatchcase(name, wanted):
        assert fnmatchcase(name, held)


@pytest.mark.parametrize(
    ("held", "wanted", "covered"),
    [
        ("*", "llama3*", True),
        ("llama*", "Llama3.2:1b", True),
        ("llama?", "llama3", True),
        ("llama?", "llama?", True),
        ("llama?", "llama*", False),
        ("llama3*", "llama*", False),
        ("m", "m", True),
        ("m", "*", False),
    ],
)
def test_covers(held: str, wanted: str, *, covered: bool) -> None:
    assert covers(held, wanted) is covered


@pytest.mark.parametrize("wanted", [(), ("*",), ("llama3*", "qwen3"), ("team/b",)])
def test_every_group_of_the_caller_counts(wanted: tuple[str, ...]) -> None:
    caller = an_identity(models=(("llama*", "team/*"), ("*3*", "team/a")))
    demand_models(caller, ("llama3*", "team/a"))
    with pytest.raises(Forbidden, match="more than the models"):
        demand_models(caller, wanted)


def test_what_one_has_one_may_give() -> None:
    caller = an_identity(permissions=frozenset({"model:read", "self:read"}))
    demand_permissions(caller, ["model:read"])
    with pytest.raises(Forbidden, match=r"you do not have node:read, user:read yourself"):
        demand_permissions(caller, ["model:read", "user:read", "node:read"])
    demand_models(caller, ["*"])
