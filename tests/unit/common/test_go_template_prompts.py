"""Templates in the manner of the models' own, and what they tell of their models."""

import pytest

from libs.common.contracts.inference import ChatMessage, Think, ToolCall, ToolFunction
from libs.common.go_template import capabilities, parse, render_chat, render_insert, thinking_tags, tool_call_tag

CHATML = """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""
LLAMA2 = "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}{{ .Prompt }} [/INST]"
GEMMA = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if or (eq .Role "user") (eq .Role "system") }}<start_of_turn>user
{{ .Content }}<end_of_turn>
{{ if $last }}<start_of_turn>model
{{ end }}
{{- else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}{{ if not $last }}<end_of_turn>
{{ end }}
{{- end }}
{{- end }}"""
PHI3 = """{{ range .Messages }}<|{{ .Role }}|>
{{ .Content }}<|end|>
{{ end }}<|assistant|>
"""
MISTRAL = """{{- range $index, $_ := .Messages }}
{{- if eq .Role "user" }}
{{- if and (eq (len (slice $.Messages $index)) 1) $.Tools }}[AVAILABLE_TOOLS] {{ $.Tools }}[/AVAILABLE_TOOLS]
{{- end }}[INST] {{ .Content }}[/INST]
{{- else if eq .Role "assistant" }}
{{- if .Content }} {{ .Content }}</s>
{{- else if .ToolCalls }}[TOOL_CALLS] [
{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{- end }}]</s>
{{- end }}
{{- else if eq .Role "tool" }}[TOOL_RESULTS] {"content": {{ .Content }}}[/TOOL_RESULTS]
{{- end }}
{{- end }}"""
QWEN3 = """{{- if .Tools }}{{ range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}{{ if and $.IsThinkSet $last }} {{ if $.Think }}/think{{ else }}/no_think{{ end }}{{ end }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Thinking }}<think>{{ .Thinking }}</think>
{{ end -}}
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}"""
CODELLAMA = "{{- if .Suffix }}<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>{{ else }}{{ .Prompt }}{{ end }}"
TYPED = """{{ range .Tools }}{{ range $name, $p := .Function.Parameters.Properties -}}
{{ $name }}: {{ toTypeScriptType $p }} {{ end }}{{ end }}{{ .Messages }}"""
EFFORT = "{{ .ThinkLevel }}|{{ .Think }}|{{ .IsThinkSet }}{{ range .Messages }}{{ end }}"

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says <how> it is",
        "parameters": {
            "type": "object",
            "properties": {"place": {"description": "where", "type": "string"}, "days": {"type": ["integer", "null"]}},
            "required": ["place"],
        },
    },
}
CALL = ToolCall(id="call_1", function=ToolFunction(name="weather", arguments={"place": "Paris", "days": 2}))


def message(role: str, content: str = "", **more: object) -> ChatMessage:
    return ChatMessage.model_validate({"role": role, "content": content, **more})


CHAT = [message("system", "Be brief."), message("user", "Hi"), message("assistant", "Hello"), message("user", "Why?")]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            CHATML,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\nHello<|im_end|>\n"
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (LLAMA2, "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]Hello[INST] Why? [/INST]"),
        (
            GEMMA,
            "<start_of_turn>user\nBe brief.<end_of_turn>\n<start_of_turn>user\nHi<end_of_turn>\n"
            "<start_of_turn>model\nHello<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            PHI3,
            "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n<|user|>\nWhy?<|end|>\n"
            "<|assistant|>\n",
        ),
    ],
)
def test_a_conversation(source: str, expected: str) -> None:
    assert render_chat(parse(source), messages=CHAT) == expected


def test_an_answer_that_was_begun_is_continued() -> None:
    prompt = render_chat(parse(CHATML), messages=[message("user", "Hi"), message("assistant", "Hel")])
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHel"


def test_a_response_inside_of_a_branch_ends_the_last_round_too() -> None:
    source = "{{ .Prompt }}{{ if .Prompt }}>{{ .Response }}<{{ else }}!{{ end }}."
    assert render_chat(parse(source), messages=CHAT[1:]) == "Hi>Hello<.Why?>"


def test_neighbours_of_one_role_are_one_message() -> None:
    messages = [message("user", "a"), message("user", "b"), message("tool", "1"), message("tool", "2")]
    messages += [message("assistant", "c"), message("assistant", "d", tool_calls=(CALL,)), message("system", "e")]
    source = "{{ .System }};{{ range .Messages }}{{ .Role }}={{ .Content }}/{{ len .ToolCalls }};{{ end }}"
    assert (
        render_chat(parse(source), messages=[message("system", "s"), *messages])
        == "s\n\ne;system=s/0;user=a\n\nb/0;tool=1/0;tool=2/0;assistant=c\n\nd/1;system=e/0;"
    )


def test_tools_calls_and_results() -> None:
    messages = [message("user", "Weather?"), message("assistant", tool_calls=(CALL,)), message("tool", "22")]
    assert (
        render_chat(parse(MISTRAL), messages=[*messages, message("user", "So?")], tools=[WEATHER])
        == '[INST] Weather?[/INST][TOOL_CALLS] [{"name": "weather", "arguments": {"place":"Paris","days":2}}]</s>'
        '[TOOL_RESULTS] {"content": 22}[/TOOL_RESULTS][AVAILABLE_TOOLS] [{"type":"function","function":'
        '{"name":"weather","description":"Says \\u003chow\\u003e it is",'
        '"parameters":{"type":"object","required":["place"],"properties":'
        '{"place":{"type":"string","description":"where"},"days":{"type":["integer","null"]}}}}}][/AVAILABLE_TOOLS]'
        "[INST] So?[/INST]"
    )


def test_a_tool_without_anything() -> None:
    prompt = render_chat(parse("{{ .Tools }}{{ range .Messages }}{{ end }}"), messages=[], tools=[{}])
    assert prompt == '[{"type":"function","function":{"name":"","parameters":{"type":"object","properties":{}}}}]'


def test_types_of_parameters() -> None:
    assert render_chat(parse(TYPED), messages=[], tools=[WEATHER]) == "days: number | null place: string []"


@pytest.mark.parametrize(
    ("think", "expected"),
    [(None, "|false|false"), (False, "|false|true"), (True, "medium|true|true"), ("high", "high|true|true")],
)
def test_what_templates_know_of_thinking(think: Think, expected: str) -> None:
    assert render_chat(parse(EFFORT), messages=[], think=think) == expected


def test_thinking_is_part_of_the_history() -> None:
    messages = [message("user", "a"), message("assistant", "b", thinking="hm"), message("user", "c")]
    assert (
        render_chat(parse(QWEN3), messages=messages, think=False)
        == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>hm</think>\nb<|im_end|>\n"
        "<|im_start|>user\nc /no_think<|im_end|>\n<|im_start|>assistant\n"
    )


def test_text_is_inserted_between() -> None:
    assert render_insert(parse(CODELLAMA), prompt="a", suffix="b") == "<PRE> a <SUF>b <MID>"


@pytest.mark.parametrize(
    ("source", "can", "tags", "tag"),
    [
        (CHATML, frozenset(), None, "{"),
        (MISTRAL, frozenset({"tools"}), None, "[TOOL_CALLS] ["),
        (QWEN3, frozenset({"tools", "thinking"}), ("<think>", "</think>"), "<tool_call>"),
        (CODELLAMA, frozenset({"insert"}), None, "{"),
        (
            "{{ range .Messages }}{{ if .ToolCalls }}\n{{ range $.X }}<call> { {{ . }}{{ end }}{{ end }}{{ end }}",
            frozenset(),
            None,
            "<call>",
        ),
        ("<think>{{ .Thinking }}</think>{{ .Messages }}", frozenset(), None, "{"),
    ],
)
def test_traits(source: str, can: frozenset[str], tags: tuple[str, str] | None, tag: str) -> None:
    template = parse(source)
    assert (capabilities(template), thinking_tags(template), tool_call_tag(template)) == (can, tags, tag)


def test_the_variables_of_a_template() -> None:
    source = '{{ define "x" }}{{ $.Suffix }}{{ end }}{{ (index .Messages 0).Role }}'
    assert parse(source).variables == {"suffix", "messages", "role"}


def test_a_template_that_asks_for_nothing_ends_with_the_response() -> None:
    assert parse("{{ .Prompt }}:").render({"Prompt": "a", "Response": "b"}) == "a:b"
