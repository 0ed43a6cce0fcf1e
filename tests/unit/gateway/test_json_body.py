import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive

from libs.common.errors import InvalidRequest, Unavailable
from services.gateway.api import connection
from services.gateway.api.json_body import LONG_BODY_BYTES, Fields, decode, parse_json, read_body

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from(["", " ", "garbage", "}", '{"more":1}', "\x00"]))
def test_bytes_after_the_first_value_are_ignored(value: Any, tail: str) -> None:
    document = [value]  # a number followed by digits would be another number
    assert decode(f" \n{json.dumps(document)}{tail}".encode()) == document


@given(st.binary(max_size=80))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    with suppress(InvalidRequest):
        decode(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        (b" \n\t", "missing request body"),
        (b"{", "unexpected EOF"),
        (b'{"a":', "unexpected EOF"),
        (b"hello", "invalid character"),
        (b'{"a":\x01}', "invalid character"),
        (b"\xef\xbb\xbf{}", "invalid character"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":1e999}', "out of range"),
        (b'{"a":-1e999} x', "out of range"),
        (b'{"a":NaN}', "invalid character 'N'"),
        (b'{"a":Infinity}', "invalid character 'I'"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 2000 + b"]" * 2000, "nested too deeply"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested too deeply"),
        (b'{"a":' + b"9" * 5000 + b"} x", "out of range"),
    ],
)
def test_what_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        decode(body)


def test_half_surrogate_pairs_become_replacement_characters() -> None:
    assert decode(b'["\\ud800", "\\ude00x", "\\ud83d\\ude00"]') == ["�", "�x", "😀"]


async def test_big_bodies_are_parsed_too() -> None:
    body = json.dumps({"prompt": "x" * 300_000}).encode()
    assert (await parse_json(body))["prompt"] == "x" * 300_000


async def test_a_body_in_pieces_is_put_together() -> None:
    messages = [{"type": "http.request", "body": part, "more_body": part != b"c"} for part in (b"a", b"b", b"c")]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    assert await read_body(receive, {}, 3) == b"abc"


def a_client(*parts: bytes) -> Receive:
    """That stops before its last piece."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    return receive


async def test_a_body_that_stops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PAUSE_SECONDS", 0.05)
    async with asyncio.timeout(10):
        with pytest.raises(Unavailable, match="the upload stopped"):
            await read_body(a_client(b"{", b" "), {}, 100)


async def test_long_bodies_are_held_to_account_until_they_end() -> None:
    held: list[str] = []

    @contextmanager
    def while_long() -> Iterator[None]:
        held.append("begins")
        yield
        held.append("ends")

    async def read(*sizes: int) -> None:
        messages = [
            {"type": "http.request", "body": bytes(size), "more_body": bool(left)}
            for size, left in zip(sizes, range(len(sizes) - 1, -1, -1), strict=True)
        ]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        assert len(await read_body(receive, {}, 4 * LONG_BODY_BYTES, while_long)) == sum(sizes)

    await read(LONG_BODY_BYTES, 0)
    await read(LONG_BODY_BYTES + 1)
    assert held == [], "it is short, or has come already"
    await read(LONG_BODY_BYTES, 1, 1, LONG_BODY_BYTES)
    assert held == ["begins", "ends"]


def test_keys_match_in_any_case_and_the_last_duplicate_wins() -> None:
    fields = Fields(decode(b'{"Model":"a","MODEL":"b","model":null}'), "ChatRequest")
    assert fields.text("model") == "b"


def test_null_is_unset() -> None:
    fields = Fields(decode(b'{"model":null,"stream":null,"context":null,"options":null,"messages":null}'), "R")
    assert (fields.text("model"), fields.flag("stream", True)) == ("", True)
    assert (fields.integers("context"), fields.mapping("options"), fields.objects("messages", "M")) == ((), {}, [])
    assert Fields(None, "R").text("model") == ""


@pytest.mark.parametrize(
    ("value", "read", "message"),
    [
        ([], lambda f: f, "json: cannot unmarshal array into Go value of type api.R"),
        ("x", lambda f: f, "json: cannot unmarshal string into Go value of type api.R"),
        ({"a": 1}, lambda f: f.text("a"), "json: cannot unmarshal number 1 into Go struct field R.a of type string"),
        (
            {"a": "x"},
            lambda f: f.flag("a", True),
            "json: cannot unmarshal string into Go struct field R.a of type bool",
        ),
        (
            {"a": 1.5},
            lambda f: f.integer("a"),
            "json: cannot unmarshal number 1.5 into Go struct field R.a of type int",
        ),
        ({"a": True}, lambda f: f.integer("a"), "json: cannot unmarshal bool into Go struct field R.a of type int"),
        (
            {"a": 2**63},
            lambda f: f.integer("a"),
            f"json: cannot unmarshal number {2**63} into Go struct field R.a of type int",
        ),
        ({"a": [[]]}, lambda f: f.integers("a"), "json: cannot unmarshal array into Go struct field R.a of type int"),
        ({"a": {}}, lambda f: f.texts("a"), "json: cannot unmarshal object into Go struct field R.a of type []string"),
        ({"a": [1]}, lambda f: f.texts("a"), "json: cannot unmarshal number 1 into Go struct field R.a of type string"),
        ({"a": "x"}, lambda f: f.mapping("a"), "json: cannot unmarshal string into Go struct field R.a of type map"),
        (
            {"a": ["x"]},
            lambda f: f.objects("a", "M"),
            "json: cannot unmarshal string into Go struct field R.a of type api.M",
        ),
    ],
)
def test_wrong_types_are_refused_in_gos_words(value: Any, read: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(Fields(value, "R"))
    assert refused.value.message.startswith(message)
