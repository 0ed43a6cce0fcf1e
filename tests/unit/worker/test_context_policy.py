import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.context_policy import ContextPolicy
from tests.fixtures.builders import a_model

WEIGHTS = "sha256:" + "0" * 64
POLICY = ContextPolicy(default=4096, largest=32768)


@pytest.mark.parametrize(
    ("num_ctx", "trained", "length"),
    [
        (0, 0, 4096),
        (0, 512, 512),
        (4, 0, 4096),
        (4096, 0, 4096),
        (4097, 0, 8192),
        (8192, 0, 8192),
        (20_000, 0, 32768),
        (20_000, 30_000, 30_000),
        (2**31 - 1, 0, 32768),
        (2**31 - 1, 131_072, 32768),
    ],
)
def test_the_default_or_the_next_power_of_two_or_the_most(num_ctx: int, trained: int, length: int) -> None:
    assert POLICY.length(a_model(weights=WEIGHTS, context_length=trained), num_ctx) == length


def test_without_weights_nothing_is_allocated_so_nothing_is_saved() -> None:
    assert POLICY.length(a_model(), 0) == 32768
    assert POLICY.length(a_model(context_length=8192), 100) == 8192


tokens = st.integers(0, 2**31 - 1)


@given(st.integers(4, 10**6), st.integers(4, 10**6), tokens, tokens, tokens)
def test_what_is_loaded_serves_everybody_who_asks_for_no_more(
    default: int, largest: int, trained: int, one: int, other: int
) -> None:
    policy, model = ContextPolicy(default, largest), a_model(weights=WEIGHTS, context_length=trained)
    short, long = policy.length(model, min(one, other)), policy.length(model, max(one, other))
    assert short <= long
    assert policy.length(model, long) == long
    assert long >= min(max(one, other), largest, trained or largest)
