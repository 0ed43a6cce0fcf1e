"""Anything may be sent to any route: it is answered in the route's dialect, and nothing of it stays behind."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.contract import MODEL, PIXEL
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

flags = st.booleans()
names = st.sampled_from(["echo", "echo", "echo-think", "echo-tools", "no", "", "a/b/c/d/e", "echo:local", "echo:cloud"])
sources = st.sampled_from([MODEL, MODEL, "echo", "no", "127.0.0.1:1/x/no", "a b"])
made = st.sampled_from(["fuzzed", "fuzzed/x:1", "Fuzzed", "../fuzzed", "", "fuzzed:" + "x" * 200])
unreachable = st.sampled_from(["127.0.0.1:1/x/y", "http://127.0.0.1:1/x/y", "http://[::1]:1/x/y", "a b", "x@sha256:0"])
digests = st.sampled_from(["sha256:" + "0" * 64, "sha256:1", "../../etc/passwd"]) | texts

images = st.lists(st.sampled_from([PIXEL, "not base64"]), max_size=2)
calls = st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": texts, "arguments": st.just({}) | values})})
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "SYSTEM", "assistant", "tool", "x", ""]), "content": texts},
        optional={
            "thinking": texts,
            "images": images,
            "tool_calls": st.lists(calls, max_size=2),
            "tool_name": texts,
        },
    ),
    max_size=4,
)
options = st.fixed_dictionaries(
    {"num_predict": st.sampled_from([0, 1, 2, 1.5, None])},
    optional={
        "num_ctx": st.integers(-1, 2**40),
        "seed": st.integers(-(2**63), 2**63),
        "stop": st.lists(texts, max_size=3),
        "temperature": st.floats(-1, 5),
        "num_keep": st.integers(-5, 10),
        "nonsense": values,
    },
)
schemas = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "integer"}, {"enum": ["a"]}, {"$ref": "#"}, {"type": "x"}, True]),
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(texts, inner, max_size=2)})
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner, "minItems": st.integers(-1, 2**33)})
        | st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=2)})
    ),
    max_leaves=4,
)
functions = st.fixed_dictionaries({"name": texts, "parameters": schemas})
generation: dict[str, st.SearchStrategy[Any]] = {
    "options": options,
    "format": st.just("json") | schemas,
    "keep_alive": st.sampled_from([0, "1s", -1, 1.5, "10m"]),
    "think": st.sampled_from(["low", True, False]),
    "logprobs": flags,
    "top_logprobs": st.integers(-1, 21),
    **dict.fromkeys(("stream", "truncate", "shift", "_debug_render_only"), flags),
}
few = st.integers(-1, 3)
ranking: dict[str, st.SearchStrategy[Any]] = {
    "query": texts,
    "documents": st.lists(texts | st.fixed_dictionaries({"text": texts}), max_size=3),
    "top_n": few,
    "return_documents": flags,
}
choices: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": few,
    "n": few,
    "stop": texts | st.lists(texts, max_size=2),
    "logit_bias": st.dictionaries(texts | st.integers(0, 9).map(str), st.integers(-101, 101), max_size=2),
    "stream": flags,
    "temperature": st.floats(-1, 3),
}
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "POST /api/generate": {
        "model": names,
        "context": st.lists(st.integers(0, 2**31), max_size=3),
        "images": images,
        "raw": flags,
        "template": st.sampled_from(["{{ .Prompt }}", "{{ range .Messages }}{{ .Content }}{{ end }}", "{{", "x"]),
        **dict.fromkeys(("prompt", "suffix", "system"), texts),
        **generation,
    },
    "POST /api/chat": {
        "model": names,
        "messages": messages,
        "tools": st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": functions}), max_size=2),
        **generation,
    },
    "POST /api/embed": {
        "model": names,
        "options": options,
        "input": texts | st.lists(texts, max_size=3),
        "truncate": flags,
        "dimensions": st.integers(-1, 2**70),
    },
    "POST /api/embeddings": {"model": names, "options": options, "prompt": texts},
    "POST /api/tokenize": {"model": names, "options": options, "text": texts, "add_special": flags},
    "POST /api/detokenize": {
        "model": names,
        "options": options,
        "tokens": st.lists(st.integers(-1, 2**32), max_size=3),
    },
    "POST /api/rerank": {"model": names, "options": options, **ranking},
    "POST /v1/rerank": {"model": names, **ranking},
    "POST /v1/chat/completions": {"model": names, **choices, "messages": messages, "max_completion_tokens": few},
    "POST /v1/completions": {"model": names, **choices, "prompt": texts | st.lists(texts, max_size=2), "echo": flags},
    "POST /v1/embeddings": {
        "model": names,
        "input": texts | st.lists(texts, max_size=3) | st.lists(st.integers(-1, 2**32), max_size=3),
        "encoding_format": st.sampled_from(["float", "base64"]),
    },
    "POST /v1/responses": {
        "model": names,
        "input": texts | messages,
        "instructions": texts,
        "max_output_tokens": few,
        "store": st.just(False),
        "stream": flags,
        "reasoning": st.sampled_from([{"effort": "low"}, {"effort": "x"}, {}]),
        "text": st.sampled_from([{"format": {"type": "text"}}, {"format": {"type": "x"}}, {"verbosity": "low"}]),
    },
    "POST /v1/messages/count_tokens": {"model": names, "messages": messages, "system": texts},
    "POST /v1/messages": {
        "model": names,
        "messages": messages,
        "max_tokens": few,
        "stream": flags,
        "system": texts,
        "stop_sequences": st.lists(texts, max_size=2),
        "thinking": st.sampled_from([{"type": "enabled", "budget_tokens": 1024}, {"type": "disabled"}, {"type": "x"}]),
    },
    "POST /api/show": {"model": names, "verbose": flags, "system": texts},
    "POST /api/copy": {"source": sources, "destination": made},
    "DELETE /api/delete": {"model": made},
    "POST /api/pull": {"model": unreachable, "insecure": flags, "stream": flags},
    "POST /api/push": {"model": unreachable, "insecure": flags, "stream": flags},
    "POST /api/create": {
        "model": made,
        "from": sources,
        "files": st.dictionaries(st.sampled_from(["a.gguf", "../a", "/a", "a.txt"]), digests, max_size=2),
        "adapters": st.dictionaries(texts, digests, max_size=2),
        "stream": flags,
        "parameters": options,
        "messages": messages,
        "license": texts | st.lists(texts, max_size=2),
        "quantize": st.sampled_from(["", "Q8_0", "x"]),
        **dict.fromkeys(("template", "system", "requires", "renderer", "parser"), texts),
    },
}
NAMES = {"model", "from", "source", "destination"}


@st.composite
def bodies(draw: st.DrawFn, call: str) -> dict[str, Any]:
    """As clients send them, but for one field at most, which may be anything."""
    fields = FIELDS[call]
    required = {name: strategy for name, strategy in fields.items() if name in {"model", "source", "destination"}}
    optional = {name: strategy for name, strategy in fields.items() if name not in required}
    body = draw(st.fixed_dictionaries(required, optional=optional))
    if draw(flags):
        name = draw(st.sampled_from(sorted(fields)))
        body[name] = draw(shapes if name in NAMES else values)
    return body


@pytest.fixture(scope="module", autouse=True)
async def nothing_is_left(suite: Suite) -> AsyncIterator[None]:
    """Whatever was sent: every slot is free afterwards, no task or key is left, and the same models are there."""
    async with httpx.AsyncClient(base_url=suite.url, timeout=60) as http:
        before = {model["name"] for model in (await http.get("/api/tags")).json()["models"]}
        async with suite.leaving_no_tasks():
            yield
        await eventually(lambda: nothing_runs(suite), "every slot is free")
        await eventually(lambda: no_keys_left(suite), "no log is left in Redis")
        after = {model["name"] for model in (await http.get("/api/tags")).json()["models"]}
        for name in after - before:
            await http.request("DELETE", "/api/delete", json={"model": name})
        assert before <= after
        assert all("fuzzed" in name.lower() for name in after - before)


def assert_in_dialect(response: httpx.Response) -> None:
    """No crash shows, as a status or as the last line of a stream; errors are texts, beside a type in ``/v1``."""
    assert response.status_code < 500 or response.status_code in {500, 503}, response.text
    assert "internal error" not in response.text
    if response.status_code >= 400 and response.headers["content-type"].startswith("application/json"):
        error = response.json()["error"]
        if response.request.url.path.startswith("/v1/"):
            assert error["type"]
            error = error["message"]
        assert type(error) is str
        assert error or response.status_code < 500


@pytest.mark.parametrize("call", FIELDS)
@bounded
@given(data=st.data())
async def test_bodies(http: httpx.AsyncClient, call: str, data: st.DataObject) -> None:
    method, path = call.split(" ")
    assert_in_dialect(await http.request(method, path, json=data.draw(bodies(call))))


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
    url = http.base_url.copy_with(raw_path=path.encode(), params=request["params"])
    response = await http.request(method, url, content=request["content"], headers=headers)
    assert response.status_code < 500, response.text
    assert "root:" not in response.text, "a file of the machine"
