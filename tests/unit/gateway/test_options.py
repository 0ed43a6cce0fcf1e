from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.inference import SamplingOptions
from libs.common.errors import InvalidRequest
from services.gateway.api.ollama.options import LARGEST_INT32, MOST_STOPS, resolve_options
from tests.fixtures.builders import a_model


def test_defaults_then_the_model_then_the_request() -> None:
    model = {"temperature": 0.2, "top_k": 7, "stop": ["</s>", "x"], "template_name": "ignored"}
    options = resolve_options(a_model(parameters=model), {"top_k": 3, "stop": ["END"], "top_p": None})
    assert (options.temperature, options.top_k, options.top_p, options.stop) == (0.2, 3, 0.9, ("END",))


def test_null_does_not_hide_what_the_model_says() -> None:
    assert resolve_options(a_model(parameters={"temperature": 0.2}), {"temperature": None}).temperature == 0.2


def test_a_seed_is_drawn_if_none_is_sent_or_it_is_negative() -> None:
    assert resolve_options(a_model(), {"seed": 42}).seed == 42
    drawn = {resolve_options(a_model(), given).seed for given in ({}, {"seed": None}, {"seed": -1}) for _ in range(5)}
    assert len(drawn) > 10
    assert all(0 <= seed <= LARGEST_INT32 for seed in drawn)


def test_unknown_options_are_ignored_whatever_they_are() -> None:
    options = resolve_options(a_model(), {"mirostat": "x", "f16_kv": [], "seed": 1})
    assert options == SamplingOptions(seed=1)


WRONG: list[tuple[str, str, list[Any]]] = [
    ("num_ctx", "of type integer", ["1", True, [], {}, 10**30, -1e300]),
    ("num_gpu", "of type integer", ["all", False]),
    ("seed", "of type integer", ["42", True, 2**63, 1e300]),
    ("temperature", "of type float32", ["hot", True, [], 1e300]),
    ("stop", "of type array", ["END", 1, {}, True]),
    ("stop", "of an array of strings", [[1], ["a", None]]),
    ("use_mmap", "of type boolean", [1]),
]


@pytest.mark.parametrize(
    ("name", "words", "value"), [(name, words, value) for name, words, values in WRONG for value in values]
)
def test_wrong_types(name: str, words: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolve_options(a_model(), {name: value})
    assert refused.value.message == f'option "{name}" must be {words}'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"num_ctx": 2048.7}, {"num_ctx": 2048}),
        ({"num_ctx": 1}, {"num_ctx": 4}),
        ({"num_ctx": -5}, {"num_ctx": 0}),
        ({"num_predict": 2**40}, {"num_predict": LARGEST_INT32}),
        ({"num_predict": -2}, {"num_predict": -1}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"stop": ["", "x"]}, {"stop": ("x",)}),
    ],
)
def test_values_are_brought_into_what_engines_take(given: dict[str, Any], expected: dict[str, Any]) -> None:
    options = resolve_options(a_model(), given).model_dump()
    assert {name: options[name] for name in expected} == expected


def test_a_model_that_sees_has_room_for_an_image() -> None:
    sees = a_model(capabilities=("completion", "vision"))
    assert [resolve_options(sees, {"num_ctx": given}).num_ctx for given in (0, 5, 4096)] == [0, 2048, 4096]


def test_stop_strings_are_counted() -> None:
    with pytest.raises(InvalidRequest, match="must not have more than"):
        resolve_options(a_model(), {"stop": ["x"] * (MOST_STOPS + 1)})


numbers = st.integers() | st.floats(allow_nan=False)  # a body with NaN is no JSON
anything = st.none() | st.booleans() | numbers | st.text() | st.lists(st.text() | st.integers())


@given(st.dictionaries(st.sampled_from([*SamplingOptions.model_fields, "num_gpu", "use_mmap", "other"]), anything))
def test_no_options_do_more_than_be_refused(given_options: dict[str, Any]) -> None:
    with suppress(InvalidRequest):
        options = resolve_options(a_model(), given_options)
        assert SamplingOptions.model_validate(options.model_dump()) == options
