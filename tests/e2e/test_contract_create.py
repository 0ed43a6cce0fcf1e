"""POST /api/create, HEAD and POST /api/blobs/:digest."""

import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.registry.conversion.safetensors import converter
from tests.e2e.contract import ANY, EMBEDDER, MODEL, PLAIN_JSON, Case, check, refused, send, stream, table
from tests.fixtures.minilm import minilm_directory
from tests.fixtures.tiny_gguf import write_tiny_gguf

pytestmark = [pytest.mark.e2e, pytest.mark.real_model]

CREATE, SHOW = "POST /api/create", "POST /api/show"
NAME = "created"
LEADS_OUT = "file path must be relative"
NOTHING = "sha256:" + "0" * 64


@pytest.fixture
async def created(http: httpx.AsyncClient) -> AsyncIterator[str]:
    """A name that is free before and after."""
    yield NAME
    await http.request("DELETE", "/api/delete", json={"model": NAME})


@pytest.fixture
async def tiny(http: httpx.AsyncClient, tmp_path: Path) -> str:
    """The digest of an uploaded GGUF file."""
    return await upload(http, write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes())


async def upload(http: httpx.AsyncClient, content: bytes) -> str:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    response = await http.post(f"/api/blobs/{digest}", content=content)
    assert response.status_code in {200, 201}, response.text
    return digest


async def create(http: httpx.AsyncClient, **body: Any) -> list[str]:
    """The statuses of a create that succeeds."""
    lines = await stream(http, CREATE, {"model": NAME, **body})
    assert lines[-1] == {"status": "success"}, lines[-1]
    return [line["status"] for line in lines]


async def shown(http: httpx.AsyncClient) -> dict[str, Any]:
    answer: dict[str, Any] = (await check(http, Case("", SHOW, {"model": NAME}))).json()
    return answer


class TestFromAModel:
    async def test_statuses(self, http: httpx.AsyncClient, created: str) -> None:
        statuses = await create(http, **{"from": MODEL}, system="You are Mario.")
        assert statuses[-2] == "writing manifest"
        layers = re.compile(r"(creating new|using existing) layer sha256:[0-9a-f]{64}")
        assert all(layers.fullmatch(status) for status in statuses[:-2])
        assert any(status.startswith("using existing layer") for status in statuses)

    async def test_whole(self, http: httpx.AsyncClient, created: str) -> None:
        response = await http.post("/api/create", json={"model": NAME, "from": MODEL, "stream": False})
        assert response.headers["content-type"] == PLAIN_JSON
        assert response.json() == {"status": "success"}

    async def test_everything_that_can_be_given(self, http: httpx.AsyncClient, created: str) -> None:
        parameters = {"temperature": 0.5, "stop": ["<a>", "<b>"], "num_predict": 3}
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]
        texts = {"system": "You are Mario.", "template": "{{ .System }} {{ .Prompt }}", "license": ["MIT", "Mine"]}
        await create(http, **{"from": MODEL}, parameters=parameters, messages=messages, **texts)
        model = await shown(http)
        assert {key: model[key] for key in ("system", "template")} == {
            key: texts[key] for key in ("system", "template")
        }
        assert sorted(model["parameters"].splitlines()) == [
            "num_predict                    3",
            'stop                           "<a>"',
            'stop                           "<b>"',
            "temperature                    0.5",
        ]
        assert model["license"].endswith("MIT\nMine")
        assert [(m["role"], m["content"]) for m in model["messages"]] == [("user", "Hi"), ("assistant", "Ahoy")]
        assert 'SYSTEM "You are Mario."' in model["modelfile"].replace('"""', '"')

    async def test_parameters_are_merged_and_a_system_prompt_stays(self, http: httpx.AsyncClient, created: str) -> None:
        await create(http, **{"from": MODEL}, system="One", parameters={"num_predict": 3, "top_k": 5})
        await create(http, **{"from": NAME}, parameters={"top_k": 7})
        model = await shown(http)
        assert model["system"] == "One"
        assert model["parameters"].split() == ["num_predict", "3", "top_k", "7"]

    async def test_what_was_set_is_done(self, http: httpx.AsyncClient, created: str) -> None:
        await create(http, **{"from": MODEL}, template="[{{ .System }}|{{ .Prompt }}]", system="S")
        body = {"model": NAME, "prompt": "a", "_debug_render_only": True}
        rendered = {"_debug_info": {"rendered_template": "[S|a]"}}
        await check(http, Case("", "POST /api/generate", body, 200, rendered))

    async def test_an_older_field_for_the_name(self, http: httpx.AsyncClient, created: str) -> None:
        lines = await stream(http, CREATE, {"name": NAME, "from": MODEL})
        assert lines[-1]["status"] == "success"


class TestFromFiles:
    async def test_gguf(self, http: httpx.AsyncClient, created: str, tiny: str) -> None:
        statuses = await create(http, files={"tiny.gguf": tiny})
        assert statuses[0] == "parsing GGUF"
        assert statuses[-2:] == ["writing manifest", "success"]
        body = {"model": NAME, "prompt": "a", "stream": False, "options": {"num_predict": 2}}
        await check(http, Case("", "POST /api/generate", body, 200, {"eval_count": 2}))

    async def test_quantized(self, http: httpx.AsyncClient, created: str) -> None:
        """all-MiniLM is F16 here."""
        statuses = await create(http, **{"from": EMBEDDER}, quantize="q8_0")
        assert "quantizing F16 model to Q8_0" in statuses
        assert (await shown(http))["details"]["quantization_level"] == "Q8_0"
        answer = await http.post("/api/embed", json={"model": NAME, "input": "a cat"})
        assert len(answer.json()["embeddings"][0]) == 384

    async def test_a_directory_of_safetensors(self, http: httpx.AsyncClient, created: str) -> None:
        if converter() is None:
            pytest.skip("llama.cpp's converter, an optional dependency, is not installed")
        source = minilm_directory()
        names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
        files = {name: await upload(http, (source / name).read_bytes()) for name in names}
        await create(http, files=files)
        answer = await http.post("/api/embed", json={"model": NAME, "input": "a cat"})
        assert len(answer.json()["embeddings"][0]) == 384


@table(
    refused("nothing to make it of", CREATE, {"model": "m"}, 400, "neither 'from' or 'files' was specified"),
    refused("no name", CREATE, {"from": MODEL}, 400, "invalid model name"),
    refused("malformed name", CREATE, {"model": "a b", "from": MODEL}, 400, "invalid model name"),
    refused("malformed digest", CREATE, {"model": "m", "files": {"a.gguf": "sha256:1"}}, 400, "invalid digest format"),
    refused("absolute path", CREATE, {"model": "m", "files": {"/a.gguf": NOTHING}}, 400, LEADS_OUT),
    refused("path that leads out", CREATE, {"model": "m", "files": {"../a.gguf": NOTHING}}, 400, LEADS_OUT),
)
@pytest.mark.parametrize("streamed", [True, False])
async def test_refused_at_once(http: httpx.AsyncClient, case: Case, streamed: bool) -> None:
    await check(http, refused("", CREATE, {**case.body, "stream": streamed}, case.status, case.expected["error"]))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"files": {"a.txt": "text"}}, "unknown type"),
        ({"files": {"a.gguf": "text"}}, "supplied file was not in GGUF format"),
        ({"from": MODEL, "adapters": {"a.gguf": "text", "b.gguf": "text"}}, "only one adapter is currently supported"),
        ({"from": MODEL, "template": "{{ .Prompt"}, re.compile("template error: .*")),
        ({"from": MODEL, "quantize": "Q9_9"}, re.compile("unsupported quantization type Q9_9.*")),
        (
            {"from": MODEL, "quantize": "Q8_0"},
            "quantization is only supported for F16, BF16 and F32 models",
        ),
        ({"from": MODEL, "parameters": {"num_ctx": "a"}}, re.compile(".*num_ctx.*")),
    ],
    ids=["unknown type", "no GGUF", "two adapters", "template", "no quantization", "quantized already", "parameter"],
)
async def test_refused_on_a_closer_look(
    http: httpx.AsyncClient, created: str, body: dict[str, Any], error: str | re.Pattern[str]
) -> None:
    """With a status if nothing was sent before, else as the last line; without a stream always with a status."""
    text = await upload(http, b"no model at all")
    body = {key: _with_digest(value, text) for key, value in body.items()}
    whole = await http.post("/api/create", json={"model": NAME, "stream": False, **body})
    assert whole.status_code in {400, 500}, whole.text
    assert_is(whole.json()["error"], error)
    streamed = await http.post("/api/create", json={"model": NAME, **body})
    assert_is(httpx.Response(200, content=streamed.content.splitlines()[-1]).json()["error"], error)
    await check(http, refused("", SHOW, {"model": NAME}, 404, f"model '{NAME}:latest' not found"))


def _with_digest(value: Any, digest: str) -> Any:
    return dict.fromkeys(value, digest) if isinstance(value, dict) and "text" in value.values() else value


def assert_is(actual: str, expected: str | re.Pattern[str]) -> None:
    assert expected.fullmatch(actual) if isinstance(expected, re.Pattern) else actual == expected, actual


class TestBlobs:
    CONTENT = b"some bytes that no other test uploads"
    DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()

    async def test_upload(self, http: httpx.AsyncClient) -> None:
        path = f"/api/blobs/{self.DIGEST}"
        assert (await http.head(path)).status_code == 404
        assert (await http.post(path, content=self.CONTENT)).status_code == 201
        assert (await http.head(path)).status_code == 200
        assert (await http.post(path, content=self.CONTENT)).status_code == 200

    async def test_in_chunks_without_a_length(self, http: httpx.AsyncClient) -> None:
        content = b"other bytes " * 10_000

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(content), 7000):
                yield content[start : start + 7000]

        digest = hashlib.sha256(content).hexdigest()
        headers = {"content-type": "application/json"}  # as ollama-python says of them
        assert (await http.post(f"/api/blobs/sha256:{digest}", content=chunks(), headers=headers)).status_code == 201

    async def test_other_bytes_than_the_digest_says(self, http: httpx.AsyncClient) -> None:
        got = "sha256:" + hashlib.sha256(b"other").hexdigest()
        error = f'digest mismatch, expected "{NOTHING}", got "{got}"'
        await check(http, refused("", f"POST /api/blobs/{NOTHING}", b"other", 400, error))
        assert (await http.head(f"/api/blobs/{NOTHING}")).status_code == 404

    @pytest.mark.parametrize("digest", ["sha256:1", "md5:" + "0" * 32, "sha256:" + "g" * 64, NOTHING + "0"])
    async def test_malformed_digest(self, http: httpx.AsyncClient, digest: str) -> None:
        await check(http, refused("", f"POST /api/blobs/{digest}", b"a", 400, "invalid digest format"))
        assert (await http.head(f"/api/blobs/{digest}")).status_code == 400

    async def test_there_is_no_get(self, http: httpx.AsyncClient) -> None:
        assert (await send(http, Case("", f"GET /api/blobs/{NOTHING}", expected=ANY))).status_code in {404, 405}
