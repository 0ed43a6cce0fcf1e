from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidRequest
from services.gateway.api.ollama.durations import FOREVER, keep_alive_seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (30, 30.0),
        (1.5, 1.5),
        (-1, FOREVER),
        (-1.0, FOREVER),
        (1e300, FOREVER),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("300ms", 0.3),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("2us3µs4μs", 9e-6),
        ("0", 0.0),
        ("0s", 0.0),
        ("-0", 0.0),
        ("+5s", 5.0),
        ("-1m", FOREVER),
        ("-1ns", FOREVER),
    ],
)
def test_every_form(value: Any, seconds: float | None) -> None:
    result = keep_alive_seconds(value)
    assert result == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("10", 'time: missing unit in duration "10"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("1h30", 'time: missing unit in duration "1h30"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        (".", 'time: invalid duration "."'),
        ("abc", 'time: invalid duration "abc"'),
        ("5 m", 'time: unknown unit " m" in duration "5 m"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("5d", 'time: unknown unit "d" in duration "5d"'),
        ("9999999999h", 'time: invalid duration "9999999999h"'),
        ("0s" * 101, "time: invalid duration of more than 200 characters"),
        (True, "Unsupported type: 'bool'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
        ([], "Unsupported type: '[]interface {}'"),
    ],
)
def test_every_refusal(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        keep_alive_seconds(value)
    assert refused.value.message == message


@given(st.text(max_size=30) | st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_no_value_does_more_than_be_refused(value: Any) -> None:
    try:
        seconds = keep_alive_seconds(value)
    except InvalidRequest:
        return
    assert seconds is not None
    assert seconds == FOREVER or seconds >= 0
