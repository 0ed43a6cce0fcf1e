"""Anything may be sent to any route: it is answered in the route's dialect, and nothing of it stays behind."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.contract import MODEL
from tests.e2e.test_chat import no_keys_left, nothing_runs
from tests.fixtures.suite import Suite, eventually

pytestmark = pytest.mark.e2e

bounded = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
shapes = scalars | st.lists(values, max_size=3) | st.dictionaries(texts, values, max_size=3)
"""Any value but text: where a text would be a name on somebody else's machine."""

served = (
    st.sampled_from(["echo", "echo-think", "echo-tools", "no", "", "a/b/c/d/e", "echo:local", "echo:cloud"]) | values
)
sources = st.sampled_from([MODEL, "echo", "127.0.0.1:1/x/no", "a b"])
made = st.sampled_from(["fuzzed", "fuzzed/x:1", "Fuzzed", "../fuzzed", "", "fuzzed:" + "x" * 200])
unreachable = st.sampled_from(
    ["127.0.0.1:1/x/y", "http://127.0.0.1:1/x/y", "http://[::1]:1/x/y", "a b", "", "x@sha256:0"]
)
digests = st.sampled_from(["sha256:" + "0" * 64, "sha256:1", "../../etc/passwd"]) | texts

messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "SYSTEM", "tool", "x", ""]) | values,
            "content": values,
            "thinking": values,
            "images": st.lists(values, max_size=2) | values,
            "tool_calls": st.lists(values, max_size=2) | values,
        },
    ),
    max_size=3,
)
options = st.fixed_dictionaries(
    {"num_predict": st.sampled_from([0, 1, 2, 1.5, "x", None])},
    optional=dict.fromkeys(("num_ctx", "seed", "stop", "temperature", "top_k", "num_keep"), values),
)
tools = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": values}) | values, max_size=2)
generation: dict[str, st.SearchStrategy[Any]] = {
    "format": st.just("json") | values,
    "keep_alive": st.sampled_from([0, "1s", "1", -1]) | values,
    "think": st.sampled_from(["low", "x", True]) | values,
    "logprobs": st.booleans() | values,
    "top_logprobs": st.integers(-1, 21) | values,
    **dict.fromkeys(("stream", "truncate", "shift", "_debug_render_only"), st.booleans() | values),
}
texts_of_generate = dict.fromkeys(("prompt", "suffix", "system", "template", "raw", "context", "images"), values)

FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "POST /api/generate": {"model": served, "options": options, **texts_of_generate, **generation},
    "POST /api/chat": {"model": served, "options": options, "messages": messages, "tools": tools, **generation},
    "POST /api/embed": {"model": served, "options": options, "input": values, "truncate": values, "dimensions": values},
    "POST /api/embeddings": {"model": served, "options": options, "prompt": values},
    "POST /api/show": {"model": served, "name": served, "verbose": st.booleans() | values, "system": values},
    "POST /api/copy": {"source": sources | values, "destination": made | shapes},
    "DELETE /api/delete": {"model": made | shapes, "name": made | shapes},
    "POST /api/pull": {"model": unreachable | shapes, "insecure": values, "stream": st.booleans() | values},
    "POST /api/push": {"model": unreachable | shapes, "insecure": values, "stream": st.booleans() | values},
    "POST /api/create": {
        "model": made | shapes,
        "from": sources | shapes,
        "files": st.dictionaries(texts, digests, max_size=2) | values,
        "adapters": st.dictionaries(texts, digests, max_size=2) | values,
        "stream": st.booleans() | values,
        **dict.fromkeys(("template", "system", "license", "parameters", "messages", "quantize"), values),
    },
}
ALWAYS = {"model", "options", "source"}
"""Without them hardly any body gets past the first check; and without ``options`` a generation takes its time."""


@pytest.fixture(scope="module", autouse=True)
async def nothing_is_left(suite: Suite) -> AsyncIterator[None]:
    """Whatever was sent: every slot is free afterwards, no key is left, and the same models are there."""
    async with httpx.AsyncClient(base_url=suite.url, timeout=60) as http:
        before = {model["name"] for model in (await http.get("/api/tags")).json()["models"]}
        yield
        await eventually(lambda: nothing_runs(suite), "every slot is free")
        await eventually(lambda: no_keys_left(suite), "no log is left in Redis")
        after = {model["name"] for model in (await http.get("/api/tags")).json()["models"]}
        for name in after - before:
            await http.request("DELETE", "/api/delete", json={"model": name})
        assert before <= after
        assert all("fuzzed" in name.lower() for name in after - before)


def assert_in_dialect(response: httpx.Response) -> None:
    """No crash shows, as a status or as the last line of a stream; errors are texts."""
    assert response.status_code < 500 or response.status_code in {500, 503}, response.text
    assert "internal error" not in response.text
    if response.status_code >= 400 and response.headers["content-type"].startswith("application/json"):
        assert type(response.json()["error"]) is str
    if response.status_code >= 500:
        assert response.json()["error"]


@pytest.mark.parametrize("call", FIELDS)
@bounded
@given(data=st.data())
async def test_bodies(http: httpx.AsyncClient, call: str, data: st.DataObject) -> None:
    method, path = call.split(" ")
    fields = FIELDS[call]
    given_fields = {name: strategy for name, strategy in fields.items() if name in ALWAYS}
    others = {name: strategy for name, strategy in fields.items() if name not in ALWAYS}
    body = data.draw(st.fixed_dictionaries(given_fields, optional=others))
    assert_in_dialect(await http.request(method, path, json=body))


@pytest.mark.parametrize("call", FIELDS)
@bounded
@given(content=st.binary(max_size=60) | texts.map(lambda text: f'{{"model":"echo",{text}'.encode()))
async def test_bytes(http: httpx.AsyncClient, call: str, content: bytes) -> None:
    method, path = call.split(" ")
    response = await http.request(method, path, content=content)
    assert response.status_code in {400, 404}, response.text
    assert_in_dialect(response)


segments = (
    st.sampled_from(["..", ".", "", "%00", "\x00", "%2e%2e", "library", MODEL, "manifests", "latest", "blobs"]) | texts
)
roots = st.sampled_from(["/api/blobs/", "/v2/", "/v2/team/fuzzed/", "/v2/team/fuzzed/blobs/", "/api/v1/", "/api/", "/"])


requests = st.fixed_dictionaries(
    {
        "root": roots,
        "rest": st.lists(segments | digests, max_size=4),
        "params": st.dictionaries(
            st.sampled_from(["digest", "mount", "from", "n", "last", "after"]), digests, max_size=2
        ),
        "content": st.binary(max_size=40),
        "range": st.sampled_from(["bytes=0-", "bytes=5-1", "bytes=-0", "0-40", "bytes=0-0,2-3", "x"]),
    }
)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
@bounded
@given(request=requests)
async def test_paths(http: httpx.AsyncClient, method: str, request: dict[str, Any]) -> None:
    path = request["root"] + "/".join(quote(segment, safe="") for segment in request["rest"])
    headers = {"range": request["range"], "content-range": request["range"]}
    response = await http.request(method, path, params=request["params"], content=request["content"], headers=headers)
    assert response.status_code < 500, response.text
    assert "root:" not in response.text, "a file of the machine"
