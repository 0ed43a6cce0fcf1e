"""Each dialect says no in its own shape, with its own headers, whatever the reason and whichever its door."""

import re
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest
from structlog.testing import capture_logs

from libs.common.contracts.auth.identity import AppliedLimits, Limits, VerifyKey
from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.permissions import Permission
from libs.common.errors import (
    ContextExceeded,
    DeadlineExceeded,
    EngineFailed,
    Overloaded,
    StreamLost,
    Unauthenticated,
    Unavailable,
)
from libs.common.limits.checks import DAY, MINUTE, Check
from libs.common.limits.store import State
from services.gateway.limits import LimitReached
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import Gateway, ScriptedStream, a_gateway

LIMIT: Final = 2048
MESSAGES: Final = [{"role": "user", "content": "hi"}]
CHAT: Final = {"model": "m", "messages": MESSAGES}

BODIES: Final[dict[str, dict[str, Any]]] = {
    "/api/chat": CHAT,
    "/api/generate": {"model": "m", "prompt": "hi"},
    "/api/embed": {"model": "m", "input": "hi"},
    "/api/tokenize": {"model": "m", "text": "hi"},
    "/api/rerank": {"model": "m", "query": "q", "documents": ["a"]},
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "m", "prompt": "hi"},
    "/v1/embeddings": {"model": "m", "input": "hi"},
    "/v1/rerank": {"model": "m", "query": "q", "documents": ["a"]},
    "/v1/responses": {"model": "m", "input": "hi", "store": False},
    "/v1/messages": CHAT | {"max_tokens": 5},
    "/v1/messages/count_tokens": CHAT,
}
STREAMING: Final = (
    "/api/chat",
    "/api/generate",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)


def limit(kind: Any, unit: Any, limit: int, left: int, *, seconds: int = MINUTE, wait: float = 0.0) -> State:
    applied = AppliedLimits(scope="user", id="o/u", limits=Limits())
    return State(Check(kind, unit, unit, limit, 1, applied, seconds), left, wait, 30.5)


REQUESTS: Final = limit("window", "requests", 10, 5)
TOKENS: Final = limit("window", "tokens", 1000, 900)
STREAMS: Final = limit("streams", "streams", 2, 1, seconds=0)
NO_REQUESTS: Final = limit("window", "requests", 10, 0, wait=30.5)
NO_DAY: Final = limit("total", "tokens", 5000, 0, seconds=DAY, wait=7200.0)


@dataclass
class Case:
    """One reason to refuse, and what each dialect makes of it."""

    status: int
    openai: tuple[str, str]
    """Type and code."""

    anthropic: str
    arrange: Callable[[Gateway], None] = lambda _gateway: None
    content: bytes | None = None
    changed: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    retry_after: int | None = None
    anthropic_status: int | None = None


def playing(error: Exception, *, at_once: bool = False) -> Callable[[Gateway], None]:
    def play(_task: InferenceTask) -> ScriptedStream:
        if at_once:
            raise error
        assert not isinstance(error, ValueError)
        return ScriptedStream(limits=[REQUESTS, TOKENS]).fail(error)  # type: ignore[arg-type]

    def arrange(gateway: Gateway) -> None:
        gateway.play = play

    return arrange


def strangers(gateway: Gateway) -> None:
    def refuse(_query: VerifyKey) -> Any:
        raise Unauthenticated

    gateway.bus.answers[VerifyKey] = refuse


def without_permission(gateway: Gateway) -> None:
    gateway.bus.answers[VerifyKey] = lambda _query: an_identity(permissions=frozenset({Permission.MODEL_READ}))


BAD: Final = ("invalid_request_error", "invalid_request")
CASES: Final = {
    "no caller": Case(401, ("authentication_error", "invalid_api_key"), "authentication_error", strangers),
    "no permission": Case(403, ("permission_error", "forbidden"), "permission_error", without_permission),
    "no body": Case(400, BAD, "invalid_request_error", content=b""),
    "no JSON": Case(400, BAD, "invalid_request_error", content=b"{"),
    "no object": Case(400, BAD, "invalid_request_error", content=b"[]"),
    "not compressed": Case(400, BAD, "invalid_request_error", headers={"Content-Encoding": "zstd"}),
    "unknown encoding": Case(
        415,
        ("invalid_request_error", "unsupported_encoding"),
        "invalid_request_error",
        headers={"Content-Encoding": "br"},
    ),
    "too large": Case(413, ("invalid_request_error", "too_large"), "request_too_large", content=b" " * (LIMIT + 1)),
    "no such model": Case(404, ("not_found_error", "model_not_found"), "not_found_error", changed={"model": "no"}),
    "too long": Case(
        400, ("invalid_request_error", "context_length_exceeded"), "invalid_request_error", playing(ContextExceeded())
    ),
    "a limit": Case(
        429,
        ("rate_limit_error", "rate_limit_exceeded"),
        "rate_limit_error",
        playing(LimitReached(NO_REQUESTS, [TOKENS, STREAMS, NO_REQUESTS]), at_once=True),
        retry_after=31,
    ),
    "a day's limit": Case(
        429,
        ("insufficient_quota", "insufficient_quota"),
        "rate_limit_error",
        playing(LimitReached(NO_DAY, [REQUESTS, NO_DAY]), at_once=True),
        retry_after=7200,
    ),
    "too many wait": Case(
        503,
        ("api_error", "overloaded"),
        "overloaded_error",
        playing(Overloaded(retry_after=6.5)),
        retry_after=7,
        anthropic_status=529,
    ),
    "a neighbour is away": Case(
        503, ("api_error", "unavailable"), "overloaded_error", playing(Unavailable(), at_once=True), retry_after=1
    ),
    "too late": Case(504, ("api_error", "deadline_exceeded"), "timeout_error", playing(DeadlineExceeded())),
    "a broken engine": Case(500, ("api_error", "engine_failed"), "api_error", playing(EngineFailed())),
    "a lost answer": Case(500, ("api_error", "stream_lost"), "api_error", playing(StreamLost())),
    "a defect": Case(500, ("api_error", "internal"), "api_error", playing(ValueError("secret"), at_once=True)),
}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with a_gateway(max_body_bytes=LIMIT) as gateway:
        gateway.bus.answers[VerifyKey] = lambda _query: an_identity(key_id="k")
        yield gateway


async def refused(gateway: Gateway, case: Case, doors: Iterable[str]) -> AsyncIterator[tuple[str, httpx.Response]]:
    """By each of these doors."""
    case.arrange(gateway)
    async with gateway.client(Authorization="Bearer omx_k", **case.headers) as http:
        for door in doors:
            body = BODIES[door] | case.changed
            sent: dict[str, Any] = {"json": body} if case.content is None else {"content": case.content}
            yield door, await http.post(door, **sent)


@pytest.mark.parametrize("name", CASES)
async def test_refusals(gateway: Gateway, name: str) -> None:
    with capture_logs():  # to show a crash with all that was around it takes structlog a quarter of a minute
        async for door, response in refused(gateway, CASES[name], BODIES):
            check_refusal(door, name, response)


def check_refusal(door: str, name: str, response: httpx.Response) -> None:
    case = CASES[name]
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers.get("retry-after") == (None if case.retry_after is None else str(case.retry_after))
    assert response.headers["x-request-id"]
    assert "secret" not in response.text
    message = check_shape(door, case, response)
    assert message
    if name == "no body":
        assert message == ("missing request body" if door.startswith("/api/") else "EOF")


def check_shape(door: str, case: Case, response: httpx.Response) -> str:
    """The message."""
    body, request_id = response.json(), response.headers["x-request-id"]
    if door.startswith("/api/"):
        assert response.status_code == case.status
        assert list(body) == ["error"]
        message = body["error"]
    elif door.startswith("/v1/messages"):
        assert response.status_code == (case.anthropic_status or case.status)
        assert response.headers["request-id"] == body["request_id"] == f"req_{request_id}"
        assert (body["type"], body["error"]["type"]) == ("error", case.anthropic)
        assert set(body) == {"type", "error", "request_id"}
        message = body["error"]["message"]
    else:
        assert response.status_code == case.status
        assert list(body) == ["error"]
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert (body["error"]["type"], body["error"]["code"]) == case.openai
        assert response.headers["openai-version"] == "2020-10-01"
        assert int(response.headers["openai-processing-ms"]) >= 0
        message = body["error"]["message"]
    assert isinstance(message, str)
    return message


def limits_told(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if "ratelimit" in name}


async def test_refusals_tell_of_limits(gateway: Gateway) -> None:
    async for door, response in refused(gateway, CASES["a limit"], BODIES):
        check_told(door, limits_told(response), requests_left="0")


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_tell_of_limits(gateway: Gateway, stream: bool) -> None:
    played = gateway.play

    def play(task: InferenceTask) -> ScriptedStream:
        answer = played(task)
        answer.limits = [REQUESTS, STREAMS, TOKENS]
        return answer

    gateway.play = play
    async with gateway.client() as http:
        for door, body in BODIES.items():
            response = await http.post(door, json=body | ({"stream": stream} if door in STREAMING else {}))
            assert response.status_code == 200, response.text
            check_told(door, limits_told(response), requests_left="5")
            request_id = gateway.streams[-1].request_id
            assert response.headers["x-request-id"] == request_id
            assert response.headers.get("request-id") == (f"req_{request_id}" if "messages" in door else None)


def check_told(door: str, told: dict[str, str], requests_left: str) -> None:
    if door.startswith("/api/"):
        assert re.fullmatch('10;w=60;comment="requests of the user".*', told.pop("ratelimit-policy"))
        assert told == {"ratelimit-limit": "10", "ratelimit-remaining": requests_left, "ratelimit-reset": "31"}
    elif door.startswith("/v1/messages"):
        resets = [told.pop(f"anthropic-ratelimit-{unit}-reset") for unit in ("requests", "tokens")]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reset) for reset in resets)
        assert told == {
            "anthropic-ratelimit-requests-limit": "10",
            "anthropic-ratelimit-requests-remaining": requests_left,
            "anthropic-ratelimit-tokens-limit": "1000",
            "anthropic-ratelimit-tokens-remaining": "900",
        }
    else:
        assert told == {
            "x-ratelimit-limit-requests": "10",
            "x-ratelimit-remaining-requests": requests_left,
            "x-ratelimit-reset-requests": "31s",
            "x-ratelimit-limit-tokens": "1000",
            "x-ratelimit-remaining-tokens": "900",
            "x-ratelimit-reset-tokens": "31s",
        }


async def test_openai_is_told_exactly_when_to_come_again_and_which_field_was_wrong(gateway: Gateway) -> None:
    async def ask(case: Case) -> httpx.Response:
        [(_door, response)] = [each async for each in refused(gateway, case, ["/v1/rerank"])]
        return response

    assert (await ask(CASES["too many wait"])).headers["retry-after-ms"] == "6500"
    assert (await ask(CASES["no such model"])).json()["error"]["param"] == "model"
    assert (await ask(Case(400, BAD, "", changed={"top_n": "x"}))).json()["error"]["param"] == "top_n"


async def test_unknown_paths_are_as_ollamas(gateway: Gateway) -> None:
    async with gateway.client() as http:
        for path in ("/v1/nope", "/v1/moderations", "/v1/audio", "/v1"):
            for method in ("GET", "POST"):
                response = await http.request(method, path)
                assert (response.status_code, response.text) == (404, "404 page not found")
                assert response.headers["content-type"].startswith("text/plain")


async def test_what_no_engine_can_do(gateway: Gateway) -> None:
    paths = [f"/v1/audio/{what}" for what in ("transcriptions", "translations", "speech")]
    paths += [f"/v1/images/{what}" for what in ("generations", "edits", "variations")]
    contents: list[dict[str, Any]] = [{"json": {"model": "m"}}, {"files": {"file": bytes(10 * LIMIT)}}]
    async with gateway.client(Authorization="Bearer omx_k") as http:
        for path in paths:
            for content in contents:
                response = await http.post(path, **content)
                assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported")
                assert response.json()["error"]["message"].startswith(f"{path} is not supported: no engine")
    strangers(gateway)
    async with gateway.client(Authorization="Bearer omx_another") as http:
        assert {(await http.post(path)).status_code for path in paths} == {401}
