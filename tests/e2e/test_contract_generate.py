"""POST /api/generate"""

import re
from typing import Any

import httpx
import pytest

from tests.e2e.contract import ANY, MODEL, PACED, PIXEL, TOO_LONG, Case, assert_matches, check, stream, table

pytestmark = pytest.mark.e2e

GENERATE = "POST /api/generate"
ECHO: dict[str, Any] = {"model": "echo", "prompt": "a", "stream": False}
REAL: dict[str, Any] = {"model": MODEL, "prompt": "a", "stream": False}
METRICS = dict.fromkeys(
    ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"), int
)
RAW = "raw mode does not support template, system, or context"


def asked(rule: str, status: int = 200, error: Any = ANY, **fields: Any) -> Case:
    """A small request to the echo engine, but for ``fields``."""
    return Case(rule, GENERATE, {**ECHO, **fields}, status, {"error": error} if status != 200 else {"done": True})


class TestAnswers:
    async def test_whole(self, http: httpx.AsyncClient) -> None:
        expected = {
            "model": "echo",
            "response": "w0 w1",
            "done": True,
            "done_reason": "length",
            "context": list,
            **METRICS,
        }
        case = Case("", GENERATE, {**ECHO, "options": {"num_predict": 2}}, 200, expected)
        answer = (await check(http, case)).json()
        assert all(answer[name] > 0 for name in METRICS)
        assert answer["context"]

    async def test_streamed(self, http: httpx.AsyncClient) -> None:
        *chunks, last = await stream(http, GENERATE, {"model": PACED, "prompt": "a", "options": {"num_predict": 5}})
        assert "".join(line["response"] for line in [*chunks, last]) == "w0 w1 w2 w3 w4"
        assert {frozenset(chunk) for chunk in chunks} == {frozenset({"model", "created_at", "response", "done"})}
        assert_matches(last, {"done": True, "done_reason": "length", "context": list, **METRICS})

    async def test_raw_has_no_context(self, http: httpx.AsyncClient) -> None:
        answer = await check(http, Case("", GENERATE, {**ECHO, "raw": True}))
        assert "context" not in answer.json()

    async def test_a_suffix_is_filled_up_to(self, http: httpx.AsyncClient) -> None:
        await check(http, Case("", GENERATE, {**ECHO, "suffix": "b"}, 200, {"response": re.compile("w0 w1.*")}))

    @pytest.mark.real_model
    async def test_context_goes_round(self, http: httpx.AsyncClient) -> None:
        first = (await check(http, Case("", GENERATE, {**REAL, "options": {"num_predict": 4, "seed": 1}}))).json()
        body = {**REAL, "context": first["context"], "options": {"num_predict": 1}}
        second = (await check(http, Case("", GENERATE, body))).json()
        assert second["prompt_eval_count"] > len(first["context"])
        assert second["context"][: len(first["context"])] == first["context"]

    @pytest.mark.real_model
    async def test_the_template_of_the_request(self, http: httpx.AsyncClient) -> None:
        body = {**REAL, "template": "[{{ .System }}|{{ .Prompt }}]", "system": "S", "_debug_render_only": True}
        rendered = {"rendered_template": "[S|a]", "image_count": int}
        await check(http, Case("", GENERATE, body, 200, {"model": MODEL, "_debug_info": rendered}))

    @pytest.mark.real_model
    async def test_a_system_prompt_replaces_the_models(self, http: httpx.AsyncClient) -> None:
        case = Case("", GENERATE, {**REAL, "system": "You are a pirate.", "_debug_render_only": True})
        rendered = (await check(http, case)).json()["_debug_info"]["rendered_template"]
        assert "You are a pirate." in rendered
        assert "SmolLM" not in rendered

    @pytest.mark.real_model
    async def test_json(self, http: httpx.AsyncClient) -> None:
        body = {**REAL, "prompt": "Tell me about Rome.", "format": "json", "options": {"num_predict": 200, "seed": 3}}
        text = (await check(http, Case("", GENERATE, body))).json()["response"]
        assert text.lstrip().startswith("{")

    async def test_thinking_streams_before_the_response(self, http: httpx.AsyncClient) -> None:
        *chunks, _ = await stream(http, GENERATE, {"model": "echo-think", "prompt": "a"})
        thinks = ["thinking" in chunk for chunk in chunks]
        assert thinks == sorted(thinks, reverse=True)
        assert any(thinks), "absent on a model that can think means on"
        assert all(chunk["response"] == "" for chunk in chunks if "thinking" in chunk)

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_logprobs(self, http: httpx.AsyncClient, streamed: bool) -> None:
        body = {**ECHO, "logprobs": True, "top_logprobs": 2, "options": {"num_predict": 3}}
        if streamed:
            lines = await stream(http, GENERATE, {**body, "stream": True})
        else:
            lines = [(await check(http, Case("", GENERATE, body))).json()]
        entries = [entry for line in lines for entry in line.get("logprobs", [])]
        assert [entry["token"] for entry in entries] == ["w0", " w1", " w2"]
        for entry in entries:
            assert bytes(entry["bytes"]).decode() == entry["token"]
            values = [other["logprob"] for other in entry["top_logprobs"]]
            assert len(values) == 2
            assert values == sorted(values, reverse=True)


class TestLoadAndUnload:
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_no_prompt_is_one_plain_object(self, http: httpx.AsyncClient, streamed: bool) -> None:
        case = Case("", GENERATE, {"model": "echo", "stream": streamed}, 200, {"response": "", "done_reason": "load"})
        answer = (await check(http, case)).json()
        assert set(answer) == {"model", "created_at", "response", "done", "done_reason"}

    async def test_keep_alive_zero_unloads(self, http: httpx.AsyncClient) -> None:
        body = {"model": "echo", "keep_alive": 0}
        await check(http, Case("", GENERATE, body, 200, {"response": "", "done": True, "done_reason": "unload"}))

    async def test_what_was_not_loaded_is_unloaded_too(self, http: httpx.AsyncClient) -> None:
        await check(http, Case("", GENERATE, {"model": "echo-7", "keep_alive": "0"}, 200, {"done_reason": "unload"}))

    @table(
        *(
            asked(f"keep_alive {value!r}", keep_alive=value)
            for value in (5, 1.5, -1, -1.0, "300ms", "1h30m", "-1s", None)
        ),
        asked("without a unit", 400, 'time: missing unit in duration "10"', keep_alive="10"),
        asked("a bool", 400, re.compile("Unsupported type: '.*'"), keep_alive=True),
        asked("an object", 400, re.compile("Unsupported type: '.*'"), keep_alive={}),
    )
    async def test_keep_alive(self, http: httpx.AsyncClient, case: Case) -> None:
        await check(http, case)


@table(
    asked("unknown model", 404, "model 'no' not found", model="no"),
    asked("unknown model to unload", 404, "model 'no' not found", model="no", prompt="", keep_alive=0),
    asked("no model", 404, "model '' not found", model=""),
    asked("malformed name", 400, "invalid model name", model="a/b/c/d/e"),
    asked("raw and system", 400, RAW, raw=True, system="s"),
    asked("raw and template", 400, RAW, raw=True, template="t"),
    asked("raw and context", 400, RAW, raw=True, context=[1]),
    asked("no images", 400, re.compile(".*image input.*"), model=MODEL, images=[PIXEL]),
    asked("no thinking", 400, f'"{MODEL}" does not support thinking', model=MODEL, think=True),
    asked("no insertion", 400, f"registry.ollama.ai/library/{MODEL} does not support insert", model=MODEL, suffix="b"),
    asked("think level", 400, re.compile(r'invalid think value: "x" \(must be .*\)'), think="x"),
    asked("top_logprobs below 0", 400, "top_logprobs must be between 0 and 20", top_logprobs=-1),
    asked("top_logprobs over 20", 400, "top_logprobs must be between 0 and 20", top_logprobs=21),
    asked("format", 400, 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object', format="xml"),
    asked("format of no kind", 400, re.compile("invalid format: .*"), format=1),
    asked("wrong option", 400, 'option "num_ctx" must be of type integer', options={"num_ctx": "a"}),
    asked("template that is none", 400, re.compile("template.*"), model=MODEL, template="{{ .Prompt"),
    asked("too long", 400, TOO_LONG, model=MODEL, prompt="cat " * 300, truncate=False, options={"num_ctx": 64}),
    asked("think false is always allowed", think=False),
    asked("top_logprobs without logprobs is ignored", top_logprobs=3),
    asked("format empty is none", format=""),
    asked("fields of image models are ignored", width=1, height=1, steps=1),
)
async def test_rules(http: httpx.AsyncClient, case: Case) -> None:
    await check(http, case)


@table(
    asked("unknown model", 404, "model 'no' not found", model="no", stream=True),
    asked("no thinking", 400, f'"{MODEL}" does not support thinking', model=MODEL, think=True, stream=True),
)
async def test_a_stream_that_is_refused_has_a_status(http: httpx.AsyncClient, case: Case) -> None:
    await check(http, case)
