"""One rule of the wire contract as a value: what is sent, and what has to come back."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

MODEL = "smollm2:135m"
PACED = "echo-50"
"""Speaks slowly enough that an answer of a few tokens has more than one line."""

EMBEDDER = "all-minilm:latest"
"""all-MiniLM-L6-v2: a model that only embeds."""

NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"
PLAIN_JSON = "application/json"
ANY = ...
"""In ``expected``: whatever it is, it is there."""

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
"""As much of an image as a model without eyes looks at."""

CREATED_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z")
LOCAL_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
TOO_LONG = re.compile(".*context.*(longer|exceed).*|.*(longer|exceed).*context.*")
HEX_64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Case:
    """``rule`` is the test's name. ``body``: bytes and text as they are, anything else as JSON."""

    rule: str
    call: str
    """As ``POST /api/chat``."""
    body: Any = b""
    status: int = 200
    expected: Any = ANY
    """Of a JSON answer: dictionaries name the keys that count, patterns match text, types match their values."""
    headers: dict[str, str] = field(default_factory=dict)


def table(*cases: Case) -> Callable[[Any], Any]:
    assert len({case.rule for case in cases}) == len(cases), "two rules of one name"
    return pytest.mark.parametrize("case", cases, ids=[case.rule for case in cases])


def refused(rule: str, call: str, body: Any, status: int, error: str | re.Pattern[str]) -> Case:
    return Case(rule, call, body, status, {"error": error})


async def send(http: httpx.AsyncClient, case: Case) -> httpx.Response:
    method, path = case.call.split(" ")
    content = case.body if isinstance(case.body, bytes | str) else json.dumps(case.body)
    return await http.request(method, path, content=content, headers=case.headers)


async def check(http: httpx.AsyncClient, case: Case) -> httpx.Response:
    """What is not streamed: the status, and the JSON as far as ``expected`` tells."""
    response = await send(http, case)
    assert response.status_code == case.status, response.text
    if case.expected is not ANY:
        assert response.headers["content-type"] == JSON
        assert_matches(response.json(), case.expected)
    return response


def assert_matches(actual: Any, expected: Any, where: str = "answer") -> None:
    if expected is ANY:
        return
    if isinstance(expected, dict):
        assert isinstance(actual, dict), where
        for key, value in expected.items():
            assert key in actual, f"{where} has no {key}: {actual}"
            assert_matches(actual[key], value, f"{where}.{key}")
    elif isinstance(expected, re.Pattern):
        assert expected.fullmatch(actual), f"{where}: {actual!r}"
    elif isinstance(expected, type):
        assert type(actual) is expected, f"{where}: {actual!r}"
    else:
        assert actual == expected, where


async def stream(http: httpx.AsyncClient, call: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of an NDJSON answer, one in each line and nothing between them."""
    method, path = call.split(" ")
    response = await http.request(method, path, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == NDJSON
    *lines, rest = response.content.split(b"\n")
    assert rest == b"", "the last line ends like the others"
    assert response.text.splitlines() == [line.decode() for line in lines], "a line that clients split elsewhere"
    return [json.loads(line) for line in lines]
