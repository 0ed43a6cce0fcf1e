"""What llama.cpp makes of thinking, tool calls, formats and insertions, with models whose answers are known."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.contracts.inference import ChatMessage, InferenceTask, ModelRef, ToolCall, ToolFunction
from libs.common.errors import ContextExceeded, InvalidRequest, UnsupportedByModel
from services.worker.engines import EngineConfig, Engines
from services.worker.engines.base import LoadedEngine
from tests.fixtures.builders import a_model
from tests.fixtures.engines import ask, chat, generate, job, load
from tests.fixtures.scripted_gguf import INFILL_TOKENS, write_adapter_gguf, write_projector_gguf, write_scripted_gguf
from tests.fixtures.tiny_gguf import SPECIAL_TOKENS, write_tiny_gguf

# As Qwen3 has it, shortened.
JINJA = r"""
{%- if tools %}
{{- '<|im_start|>system\n<tools>' }}{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\n</tools>\n\nFor each call write\n<tool_call>\n' }}
{{- '{"name": <name>, "arguments": <object>}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\n' }}
{%- if message.reasoning_content %}{{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{%- endif %}
{{- message.content }}
{%- for tool_call in message.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + tool_call.function.name + '", "arguments": ' }}
{{- tool_call.function.arguments | tojson }}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""

GO = """{{ if .Tools }}tools: {{ .Tools }}
{{ end }}{{ range .Messages }}{{ .Role }}: {{ if .Thinking }}<think>
{{ .Thinking }}
</think>
{{ end }}{{ .Content }}{{ if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>{{ end }}
{{ end }}assistant: {{ if .IsThinkSet }}think {{ .Think }}{{ end }}
"""

SCRIPT = [
    "<think>", "\nlet", " me", " see", "\n\n\n", "</think>", "\n\n", "So", " ...", "\n<tool_call>", '\n{"name": ',
    '"weather", ', '"arguments": ',  '{"city": "Par', 'is",', ' "days": ', '2}}', "\n</tool_call>",
]  # fmt: skip

SCRIPTED_FROM = len(SPECIAL_TOKENS) + len(INFILL_TOKENS) + 256
"""The id of the first text."""

PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": PROPERTIES, "required": ["city"]}},
}
CALLED = {"index": 0, "name": "weather", "arguments": {"city": "Paris", "days": 2}}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {
            "$defs": {"Zone": {"enum": ["UTC"]}},
            "properties": {"zone": {"$ref": "#/$defs/Zone"}, "when": {"type": "string", "enum": ["now"]}},
            "required": ["zone", "when"],
        },
    },
}
TOLD_THE_TIME = {"index": 0, "name": "clock", "arguments": {"zone": "UTC", "when": "now"}}
JINJA_MODEL = a_model(name="scripted", engine="llama_cpp", capabilities=("completion", "tools", "thinking"))
GO_MODEL = JINJA_MODEL.model_copy(update={"template": GO})
BOTH = pytest.mark.parametrize("model", [JINJA_MODEL, GO_MODEL], ids=["jinja", "go"])


@pytest.fixture(scope="module")
def engines() -> Engines:
    return Engines(EngineConfig(threads=1))


@pytest.fixture(scope="module")
async def scripted(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LoadedEngine]:
    path = write_scripted_gguf(tmp_path_factory.mktemp("gguf") / "scripted.gguf", SCRIPT, template=JINJA)
    model = await load(engines, "llama_cpp", "scripted", path)
    yield model
    await model.close()


class TestThinking:
    @BOTH
    @pytest.mark.parametrize("think", [None, True, "high"])
    async def test_comes_apart_from_the_answer(self, scripted: LoadedEngine, model: ModelRef, think: Any) -> None:
        answer = await ask(scripted, chat(think=think, num_predict=9), model)
        assert answer.thinking.strip() == "let me see"
        assert answer.text == "So ..."
        assert answer.finish.done_reason == "length"
        assert answer.finish.completion_tokens == 9
        assert answer.finish.prompt_tokens > 10
        assert answer.token_ids == ()

    @BOTH
    async def test_the_stop_string_is_told(self, scripted: LoadedEngine, model: ModelRef) -> None:
        answer = await ask(scripted, chat(num_predict=40, stop=("NEVER", " ...")), model)
        assert (answer.thinking.strip(), answer.text) == ("let me see", "So")
        assert (answer.finish.done_reason, answer.finish.stop_sequence) == ("stop", " ...")

    async def test_is_dropped_if_nobody_wants_it(self, scripted: LoadedEngine) -> None:
        answer = await ask(scripted, chat(think=False, num_predict=9), GO_MODEL)
        assert (answer.thinking, answer.text) == ("", "So ...")

    async def test_the_template_is_told(self, scripted: LoadedEngine) -> None:
        off = await ask(scripted, chat(think=False, debug_render_only=True), JINJA_MODEL)
        assert (off.finish.rendered or "").endswith("assistant\n<think>\n\n</think>\n\n")
        on = await ask(scripted, chat(debug_render_only=True), JINJA_MODEL)
        assert (on.finish.rendered or "").endswith("assistant\n")

    @BOTH
    async def test_of_generate_with_a_context_to_continue(self, scripted: LoadedEngine, model: ModelRef) -> None:
        first = await ask(scripted, generate("hi", num_predict=9), model)
        assert (first.thinking.strip(), first.text) == ("let me see", "So ...")
        assert len(first.finish.context) > first.finish.prompt_tokens
        again = await ask(scripted, generate("hi", num_predict=9, context=first.finish.context), model)
        assert (again.thinking.strip(), again.text) == ("let me see", "So ...")
        assert again.finish.prompt_tokens == len(first.finish.context) + first.finish.prompt_tokens

    @BOTH
    async def test_only_the_answer_follows_the_format(self, scripted: LoadedEngine, model: ModelRef) -> None:
        schema = {"type": "object", "properties": {"ok": {"enum": [True]}}, "required": ["ok"]}
        task = chat(format=schema | {"additionalProperties": False}, num_predict=200)
        answer = await ask(scripted, task, model)
        assert answer.thinking.strip() == "let me see"
        assert "".join(answer.text.split()) == '{"ok":true}'

    async def test_a_format_without_room_after_the_thinking(self, scripted: LoadedEngine) -> None:
        answer = await ask(scripted, chat(format="json", num_predict=6), GO_MODEL)
        assert (answer.thinking, answer.text, answer.finish.done_reason) == ("let me see", "", "length")
        assert answer.finish.completion_tokens == 6

    @BOTH
    def test_is_replayed(self, scripted: LoadedEngine, model: ModelRef) -> None:
        assert not scripted.can_resume(job(chat(), model))
        assert scripted.can_resume(job(chat(logprobs=True)))


class TestTools:
    @BOTH
    async def test_a_call_comes_whole(self, scripted: LoadedEngine, model: ModelRef) -> None:
        answer = await ask(scripted, chat(tools=[WEATHER], num_predict=40), model)
        assert [call["function"] for call in answer.calls] == [CALLED]
        assert list(answer.calls[0]["function"]["arguments"]) == ["city", "days"]
        assert answer.text.strip() == "So ..."
        assert answer.thinking.strip() == "let me see"
        assert answer.finish.done_reason == "stop"
        assert answer.calls == (await ask(scripted, chat(tools=[WEATHER], num_predict=40), model)).calls

    @BOTH
    async def test_a_call_that_is_cut_off_is_none(self, scripted: LoadedEngine, model: ModelRef) -> None:
        answer = await ask(scripted, chat(tools=[WEATHER], num_predict=15), model)
        assert (answer.calls, answer.finish.done_reason) == ([], "length")

    @pytest.mark.parametrize("think", [None, False])
    async def test_a_call_that_must_come(self, scripted: LoadedEngine, think: Any) -> None:
        must = {"tools": [CLOCK], "tool_choice": "required", "num_predict": 100, "think": think}
        answer = await ask(scripted, chat(parallel_tool_calls=False, **must), GO_MODEL)
        assert [call["function"] for call in answer.calls] == [TOLD_THE_TIME]
        assert (answer.text, answer.finish.done_reason) == ("", "stop")
        assert answer.thinking == ("" if think is False else "let me see")
        assert 20 < answer.finish.completion_tokens < 100
        freely_after_it = await ask(scripted, chat(format="json", **must), GO_MODEL)
        assert freely_after_it.calls[0] == answer.calls[0]
        assert freely_after_it.text == ""

    async def test_the_server_is_told_that_a_call_must_come(self, scripted: LoadedEngine) -> None:
        task = chat(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, num_predict=40)
        answer = await ask(scripted, task, JINJA_MODEL)
        assert [call["function"] for call in answer.calls] == [CALLED]
        assert answer.finish.done_reason == "stop"
        formatted = await ask(scripted, task.model_copy(update={"format": "json"}), JINJA_MODEL)
        assert formatted.calls == answer.calls
        without = chat(tool_choice="required", num_predict=9)
        assert (await ask(scripted, without, JINJA_MODEL)).text == "So ..."

    async def test_a_call_comes_even_if_the_thinking_does_not_end(self, engines: Engines, tmp_path: Path) -> None:
        path = write_scripted_gguf(tmp_path / "m.gguf", ["<think>", "\nhm"])
        loaded = await load(engines, "llama_cpp", "m", path)
        task = chat(tools=[CLOCK], tool_choice="required", parallel_tool_calls=False, num_predict=100)
        answer = await ask(loaded, task, GO_MODEL)
        assert [call["function"] for call in answer.calls] == [TOLD_THE_TIME]
        assert (answer.thinking, answer.text) == ("hm", "")
        await loaded.close()

    @pytest.mark.parametrize("room", [3, 12])
    async def test_without_room_for_the_call_that_must_come(self, scripted: LoadedEngine, room: int) -> None:
        task = chat(tools=[CLOCK], tool_choice="required", num_predict=room)
        answer = await ask(scripted, task, GO_MODEL)
        assert (answer.finish.done_reason, answer.finish.completion_tokens) == ("length", room)
        assert (answer.text, answer.calls) == ("", [])

    async def test_a_call_that_must_come_after_a_full_context(self, scripted: LoadedEngine) -> None:
        task = chat("x" * 255, tools=[CLOCK], tool_choice="required", parallel_tool_calls=False, num_predict=200)
        [call] = (await ask(scripted, task, GO_MODEL)).calls
        assert call["function"] == TOLD_THE_TIME

    @BOTH
    async def test_one_call_at_a_time(self, engines: Engines, tmp_path: Path, model: ModelRef) -> None:
        rome, oslo = (f'{{"name": "weather", "arguments": {{"city": "{city}"}}}}' for city in ("Rome", "Oslo"))
        script = ["<tool_call>\n", rome, "\n</tool_call>", "\n<tool_call>\n", oslo, "\n</tool_call>\n"]
        path = write_scripted_gguf(tmp_path / "calls.gguf", script, template=JINJA)
        loaded = await load(engines, "llama_cpp", "calls", path)
        model = model.model_copy(update={"capabilities": ("completion", "tools")})
        every = await ask(loaded, chat(tools=[WEATHER], parallel_tool_calls=True, num_predict=40), model)
        one = await ask(loaded, chat(tools=[WEATHER], parallel_tool_calls=False, num_predict=40), model)
        assert [call["function"]["arguments"]["city"] for call in one.calls] == ["Rome"]
        assert one.calls == every.calls[:1]
        assert one.finish.done_reason == "stop"
        assert one.finish.completion_tokens > 1
        await loaded.close()

    @BOTH
    @pytest.mark.parametrize(
        ("words", "calls"),
        [
            (["<tool_call>\n", '{"name": "weather", "arguments": {"city": "Rome"}}', "\n</tool_call>"], ["weather"]),
            (["So", " ..."], []),
        ],
        ids=["call", "answer"],
    )
    async def test_a_call_or_an_answer_in_a_format(
        self, engines: Engines, tmp_path: Path, model: ModelRef, words: list[str], calls: list[str]
    ) -> None:
        path = write_scripted_gguf(tmp_path / "m.gguf", ["<think>", "\nhm", "\n\n", "</think>", *words], template=JINJA)
        loaded = await load(engines, "llama_cpp", "m", path)
        schema = {"type": "object", "properties": {"ok": {"enum": [True]}}, "required": ["ok"]}
        answer = await ask(loaded, chat(tools=[WEATHER], format=schema, num_predict=200), model)
        assert [call["function"]["name"] for call in answer.calls] == calls
        assert "".join(answer.text.split()) == ("" if calls else '{"ok":true}')
        assert answer.thinking.strip() == "hm"
        assert answer.finish.done_reason == "stop"
        await loaded.close()

    @BOTH
    async def test_tools_calls_and_results_are_in_the_prompt(self, scripted: LoadedEngine, model: ModelRef) -> None:
        call = ToolCall(function=ToolFunction(name="weather", arguments={"city": "Rome"}))
        history = (
            ChatMessage(role="user", content="hi"),
            ChatMessage(role="assistant", thinking="hm", tool_calls=(call,)),
            ChatMessage(role="tool", content="sunny"),
        )
        task = chat(tools=[WEATHER], messages=history, debug_render_only=True)
        rendered = (await ask(scripted, task, model)).finish.rendered or ""
        parts = ['"weather"', "<think>\nhm\n</think>", '<tool_call>\n{"name": "weather"', '"Rome"', "sunny"]
        assert [part for part in parts if part not in rendered] == []

    @BOTH
    async def test_tools_count_when_old_messages_are_dropped(self, scripted: LoadedEngine, model: ModelRef) -> None:
        turns = tuple(ChatMessage(role="user", content=f"turn{i}" + "x" * 95) for i in range(4))
        task = chat(messages=turns, debug_render_only=True)
        alone = (await ask(scripted, task, model)).finish
        assert "turn0" in (alone.rendered or "")
        tools = (await ask(scripted, task.model_copy(update={"tools": (WEATHER,)}), model)).finish
        assert "turn0" not in (tools.rendered or "")
        assert "turn3" in (tools.rendered or "")
        assert (tools.prompt_tokens, alone.prompt_tokens) == (0, 0)
        assert 0 < tools.prompt_length < 512
        whole = (await ask(scripted, task.model_copy(update={"tools": (WEATHER,), "truncate": False}), model)).finish
        assert "turn0" in (whole.rendered or "")
        assert whole.prompt_length > 512

    async def test_a_schema_that_is_none(self, scripted: LoadedEngine) -> None:
        wrong = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": 3}}}
        with pytest.raises(InvalidRequest):
            await ask(scripted, chat(tools=[wrong]), JINJA_MODEL)
        with pytest.raises(InvalidRequest, match="invalid tools"):
            await ask(scripted, chat(tools=[wrong], tool_choice="required", think=False), GO_MODEL)


@BOTH
async def test_a_token_with_a_bias_against_it_is_not_said(scripted: LoadedEngine, model: ModelRef) -> None:
    me = SCRIPTED_FROM + SCRIPT.index(" me")
    assert await scripted.detokenize([me]) == " me"
    task = chat(num_predict=9)
    assert " me" in (await ask(scripted, task, model)).thinking
    biased = task.options.model_copy(update={"logit_bias": ((me, -100.0),)})
    assert " me" not in (await ask(scripted, task.model_copy(update={"options": biased}), model)).thinking


class TestTemplates:
    async def test_the_requests_template_wins(self, scripted: LoadedEngine) -> None:
        task = chat("hi", template="T {{ .System }}|{{ .Prompt }}", debug_render_only=True)
        model = GO_MODEL.model_copy(update={"system": "be kind"})
        assert (await ask(scripted, task, model)).finish.rendered == "T be kind|hi"

    async def test_an_answer_to_a_go_template_is_plain_text_and_resumed(self, scripted: LoadedEngine) -> None:
        model = a_model(engine="llama_cpp", template="{{ .Prompt }}\n")
        task = chat(num_predict=5)
        whole = await ask(scripted, task, model)
        assert whole.text == "<think>\nlet me see\n\n\n"
        assert scripted.can_resume(job(task, model))
        rest = await ask(scripted, task, model, whole.token_ids[:2])
        assert rest.text == " me see\n\n\n"

    async def test_a_template_that_is_wrong(self, scripted: LoadedEngine) -> None:
        with pytest.raises(InvalidRequest, match="template"):
            await ask(scripted, chat(template="{{ .Prompt"))

    async def test_stored_messages_come_first(self, scripted: LoadedEngine) -> None:
        model = GO_MODEL.model_copy(update={"messages": (ChatMessage(role="user", content="stored"),)})
        rendered = (await ask(scripted, chat("asked", debug_render_only=True), model)).finish.rendered or ""
        assert rendered.index("stored") < rendered.index("asked")


class TestInsertion:
    @pytest.mark.parametrize(
        ("template", "rendered"),
        [
            (None, "<|fim_prefix|>def f(<|fim_suffix|>return<|fim_middle|>"),
            ("<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>\n", "<PRE> def f( <SUF>return <MID>\n"),
        ],
        ids=["vocabulary", "template"],
    )
    async def test_fills_the_gap(self, scripted: LoadedEngine, template: str | None, rendered: str) -> None:
        model = a_model(engine="llama_cpp", template=template)
        task = generate("def f(", suffix="return", num_predict=3)
        answer = await ask(scripted, task, model)
        assert answer.text == "<think>\nlet me"
        debug = await ask(scripted, task.model_copy(update={"debug_render_only": True}), model)
        assert debug.finish.rendered == rendered

    async def test_keeps_what_is_next_to_the_gap(self, scripted: LoadedEngine) -> None:
        answer = await ask(scripted, generate("p" * 600, suffix="s" * 600, num_predict=1))
        assert answer.finish.prompt_tokens == 511
        with pytest.raises(ContextExceeded):
            await ask(scripted, generate("p" * 600, suffix="s", truncate=False))

    async def test_a_vocabulary_without_its_tokens(self, engines: Engines, tmp_path: Path) -> None:
        model = await load(engines, "llama_cpp", "tiny", write_tiny_gguf(tmp_path / "tiny.gguf"))
        with pytest.raises(UnsupportedByModel, match='"tiny" does not support insert'):
            await ask(model, generate("a", suffix="b"), a_model(name="tiny"))
        await model.close()


class TestLogprobs:
    async def test_one_for_each_token_of_a_plain_answer(self, scripted: LoadedEngine) -> None:
        answer = await ask(scripted, chat(logprobs=True, top_logprobs=2, num_predict=5))
        assert [entry.token for entry in answer.logprobs] == SCRIPT[:5]
        assert [entry.data.decode() for entry in answer.logprobs] == SCRIPT[:5]
        assert all(len(entry.top) == 2 and entry.top[0].logprob >= entry.top[1].logprob for entry in answer.logprobs)
        alone = await ask(scripted, chat(logprobs=True, num_predict=5))
        assert [len(entry.top) for entry in alone.logprobs] == [0] * 5

    @BOTH
    async def test_with_thinking_and_tools(self, scripted: LoadedEngine, model: ModelRef) -> None:
        task = chat(logprobs=True, tools=[WEATHER], num_predict=40)
        tokens = [entry.token for entry in (await ask(scripted, task, model)).logprobs]
        assert {" me", "So", " ...", 'is",'} <= set(tokens)

    async def test_a_character_of_several_tokens_is_one(self, engines: Engines, tmp_path: Path) -> None:
        path = write_scripted_gguf(tmp_path / "bytes.gguf", ["one", "two"])
        model = await load(engines, "llama_cpp", "bytes", path)
        grammar = {"type": "string", "enum": ["é"]}
        answer = await ask(model, chat(format=grammar, logprobs=True, num_predict=20))
        assert "é" in [entry.token for entry in answer.logprobs]
        assert b"".join(entry.data for entry in answer.logprobs).decode() == answer.text
        await model.close()


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def with_image(image: str, **changes: Any) -> InferenceTask:
    return chat(messages=(ChatMessage(role="user", content="what is it?", images=(image,)),), **changes)


async def test_images_are_read_by_the_projector(engines: Engines, tmp_path: Path) -> None:
    weights, projector = tmp_path / "scripted.gguf", write_projector_gguf(tmp_path / "projector.gguf")
    write_scripted_gguf(weights, [" red", " dot"])
    model = await load(engines, "llama_cpp", "sees", weights, projector=projector)
    plain = await ask(model, chat("what is it?"))
    for task in (with_image(PNG), generate("what is it?", images=(PNG,))):
        answer = await ask(model, task)
        assert answer.text == plain.text == " red dot"
        assert answer.finish.prompt_tokens == plain.finish.prompt_tokens + 4, "four patches"
        assert not model.can_resume(job(task))
    with pytest.raises(InvalidRequest):
        await ask(model, with_image(PNG[:40]))
    await model.close()


async def test_images_need_a_projector(scripted: LoadedEngine) -> None:
    with pytest.raises(UnsupportedByModel):
        await ask(scripted, with_image(PNG))
    with pytest.raises(InvalidRequest, match="invalid image input"):
        await ask(scripted, with_image("aGVsbG8="))


async def test_images_are_marked_in_a_rendered_prompt(scripted: LoadedEngine) -> None:
    finish = (await ask(scripted, with_image(PNG, debug_render_only=True))).finish
    assert "[img-0]what is it?" in (finish.rendered or "")
    assert finish.image_count == 1


async def test_an_adapter_changes_the_answer(engines: Engines, tmp_path: Path) -> None:
    weights, adapter = write_tiny_gguf(tmp_path / "tiny.gguf"), write_adapter_gguf(tmp_path / "adapter.gguf")
    plain = await load(engines, "llama_cpp", "tiny", weights)
    adapted = await load(engines, "llama_cpp", "tiny", weights, adapters=(adapter,))
    assert (await ask(plain, chat())).text != (await ask(adapted, chat())).text
    await plain.close()
    await adapted.close()


async def test_a_smaller_context_is_honoured_without_a_reload(scripted: LoadedEngine) -> None:
    finish = (await ask(scripted, chat("x" * 200, num_ctx=256, shift=False, num_predict=-1))).finish
    assert finish.prompt_tokens + finish.completion_tokens <= 256
    with pytest.raises(ContextExceeded):
        await ask(scripted, chat("x" * 200, num_ctx=128))
