"""What is wrong with a template is said as Go says it; and no template costs more than its bounds."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.inference import ChatMessage
from libs.common.errors import InvalidRequest
from libs.common.go_template import TemplateError, parse, render_chat
from libs.common.go_template.interpreter import MAX_STEPS
from libs.common.go_template.parser import MAX_SOURCE
from libs.common.go_template.values import MAX_TEXT

DATA: dict[str, Any] = {
    "Response": "",
    "Text": "héllo",
    "Nil": None,
    "List": ["a", "b", "c"],
    "Map": {"b": 1, "a": {"x": 1}},
}


MAX_NUMBER = 200_000
"""Digits; more than a matcher that tries every way to cut them would get through."""


def render(source: str) -> str:
    return parse(source + "{{ .Response }}").render(DATA)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('{{ x "a" }}', 'template: :1: function "x" not defined'),
        ("a\nb{{ call .Text }}", 'template: :2: function "call" not defined'),
        ("{{ $x }}", 'template: :1: undefined variable "$x"'),
        ("{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", 'template: :1: undefined variable "$x"'),
        ("{{ $x = 1 }}", 'template: :1: undefined variable "$x"'),
        ("{{ }}", "template: :1: missing value for command"),
        ("{{ if }}{{ end }}", "template: :1: missing value for if"),
        ("{{ if true }}\n", "template: :2: unexpected EOF"),
        ("{{ end }}", "template: :1: unexpected {{end}}"),
        ("{{ if true }}{{ else }}{{ else }}{{ end }}", "template: :1: unexpected {{else}}"),
        ("{{ break }}", "template: :1: {{break}} outside {{range}}"),
        ('{{ range 1 }}{{ define "x" }}{{ end }}{{ end }}', "template: :1: unexpected {{define}}"),
        ('{{ define "x" }}{{ end }}{{ define "x" }}{{ end }}', 'template: :1: multiple definition of template "x"'),
        ("\n\n{{ .A ", "template: :3: unclosed action"),
        ("{{/* a", "template: :1: unclosed comment"),
        ("{{/* a */ .A }}", "template: :1: comment ends before closing delimiter"),
        ('{{ "a }}', "template: :1: unterminated quoted string"),
        ('{{ "\\z" }}', 'template: :1: malformed quoted string: "\\z"'),
        ("{{ 0x1FFFFFFFFFFFFFFFFFFF }}", "template: :1: malformed number: 0x1FFFFFFFFFFFFFFFFF"),
        ("{{ 089 }}", "template: :1: malformed number: 089"),
        ("{{ 1a }}", "template: :1: bad number syntax: '1a }}'"),
        ("{{ " + "1" * MAX_NUMBER + "x }}", "template: :1: bad number syntax: '1111111111'"),
        ("{{ " + "1" * MAX_NUMBER + " }}", "template: :1: malformed number: 11111111111111111111"),
        ("{{ 1e999 }}", "template: :1: malformed number: 1e999"),
        ('{{ "\\ud800" }}', 'template: :1: malformed quoted string: "\\ud800"'),
        ("{{ $x := 1 }}" * 100, "template: :1: more than 100 variables"),
        ("{{ .A ~ }}", "template: :1: unexpected bad character U+007E in action"),
        ("{{ (.A }}", 'template: :1: unexpected "}}" in parenthesized pipeline'),
        ("{{ .A) }}", 'template: :1: unexpected ")" in command'),
        ("{{ .A.1 }}", 'template: :1: unexpected ".1" in operand'),
        ('{{ "a".B }}', "template: :1: unexpected . after term '\"a\"'"),
        ("{{ 1 | 2 }}", "template: :1: non executable command in pipeline stage"),
        ("{{ $a, $b := .List }}", "template: :1: too many declarations in command"),
        ("{{ template x }}", 'template: :1: unexpected "x" in template clause'),
    ],
)
def test_what_go_does_not_parse(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(source)
    assert caught.value.message == message
    assert (caught.value.code, caught.value.status) == (InvalidRequest.code, 400)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\n {{ .Text.Size }}", '2:4: executing "" at <.Text.Size>: can\'t evaluate field Size in type string'),
        ("{{ .Nil.Size }}", '1:3: executing "" at <.Nil.Size>: nil pointer evaluating interface {}.Size'),
        ("{{ .Text 1 }}", '1:3: executing "" at <.Text>: can\'t give argument to non-function'),
        ("{{ nil }}", '1:3: executing "" at <nil>: nil is not a command'),
        ("{{ len 3 }}", '1:3: executing "" at <len 3>: error calling len: len of type int'),
        ("{{ len }}", '1:3: executing "" at <len>: wrong number of args for len: got 0'),
        ("{{ and }}", '1:3: executing "" at <and>: wrong number of args for and: got 0'),
        ("{{ index .List 3 }}", '1:3: executing "" at <index .List 3>: error calling index: index out of range: 3'),
        (
            "{{ slice .List 2 1 }}",
            '1:3: executing "" at <slice .List 2 1>: error calling slice: invalid slice index: 2 > 1',
        ),
        ("{{ eq 1 `a` }}", '1:3: executing "" at <eq 1 `a`>: error calling eq: incompatible types for comparison'),
        ("{{ eq 1 true }}", '1:3: executing "" at <eq 1 true>: error calling eq: incompatible types for comparison'),
        ("{{ eq .List 1 }}", '1:3: executing "" at <eq .List 1>: error calling eq: non-comparable type []interface {}'),
        ("{{ lt true 1 }}", '1:3: executing "" at <lt true 1>: error calling lt: invalid type for comparison'),
        ("{{ range .Text }}{{ end }}", '1:9: executing "" at <.Text>: range can\'t iterate over héllo'),
        ('{{ template "no" }}', '1:0: executing "" at <{{ template "no" }}>: template "no" not defined'),
    ],
)
def test_what_go_does_not_execute(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert caught.value.message == f"template: :{message}"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x" * (MAX_SOURCE + 1), f"longer than {MAX_SOURCE} characters"),
        ("{{ if true }}" * 100 + "{{ end }}" * 100, "nested deeper than 60"),
        ("{{ " + "(" * 100 + "1" + ")" * 100 + " }}", "nested deeper than 60"),
        ("{{ if true }}" + "{{ else if true }}" * 100 + "{{ end }}", "nested deeper than 60"),
        ('{{ define "x" }}{{ template "x" }}{{ end }}{{ template "x" }}', "nested deeper than 60"),
        ("{{ range 3000 }}{{ range 3000 }}{{ end }}{{ end }}", f"more than {MAX_STEPS} steps"),
        ("{{ range 999999999999 }}{{ end }}", f"more than {MAX_STEPS} steps"),
        (
            "{{ $x := `xxxxxxxx` }}{{ range 60 }}{{ $x = print $x $x $x $x $x $x $x $x }}{{ end }}",
            f"longer than {MAX_TEXT} characters",
        ),
        (
            "{{ $x := printf `%999d` 1 }}{{ range 99999 }}{{ $x }}{{ end }}",
            f"output longer than {MAX_TEXT} characters",
        ),
        ("{{ printf `%999999999d` 1 }}", "wider than 1000"),
    ],
)
def test_bounds(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        render(source)


def test_values_nested_too_deep_are_refused() -> None:
    value: list[Any] = []
    for _ in range(300):
        value = [value]
    for source in ("{{ .Value }}", "{{ json .Value }}", "{{ print .Value }}"):
        with pytest.raises(TemplateError, match="nested deeper than 100"):
            parse(source).render({"Value": value, "Response": ""})


def test_many_large_values_are_not_printed_at_once() -> None:
    value = ["x" * 1000] * 5000
    for call in ("print", "println", "printf ``", "printf `%v%v`", "html"):
        with pytest.raises(TemplateError, match=f"a text longer than {MAX_TEXT} characters"):
            parse(f"{{{{ {call} .Value .Value }}}}").render({"Value": value})


@pytest.mark.parametrize("body", ["{{ $x := json $.Value }}", "{{ range $.Map }}{{ break }}{{ end }}"])
def test_work_that_writes_nothing_is_bounded_too(body: str) -> None:
    data = {"Value": list(range(50_000)), "Map": {str(i): i for i in range(50_000)}}
    with pytest.raises(TemplateError, match=f"more than {MAX_STEPS} steps"):
        parse(f"{{{{ range 1000 }}}}{body}{{{{ end }}}}").render(data)


def test_the_rounds_of_a_conversation_share_the_bounds() -> None:
    turns = [ChatMessage(role=role, content="a") for _ in range(5) for role in ("user", "assistant")]
    dear = parse("{{ range 900000 }}{{ end }}{{ .Prompt }}{{ .Response }}")
    assert render_chat(dear, messages=turns[:1]) == "a"
    with pytest.raises(TemplateError, match=f"more than {MAX_STEPS} steps"):
        render_chat(dear, messages=turns)


def test_a_value_is_shown_only_where_it_is_written() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    assert parse("{{ printf `%T` .Value }}").render({"Value": deep}) == "[]interface {}<no value>"


def test_no_character_is_half_a_pair() -> None:
    assert render("{{ printf `%c%c` 55296 -1 }}") == "\ufffd\ufffd"


def test_no_attribute_of_python_is_reachable() -> None:
    for source in ("{{ .Text.upper }}", "{{ .Map.a.keys }}{{ .List.__class__ }}", "{{ .__class__.x }}"):
        with pytest.raises(TemplateError, match=r"can't evaluate field|nil pointer"):
            render(source)


PIECES = [
    "{{",
    "}}",
    "{{-",
    "-}}",
    " ",
    "\n",
    "x",
    ".A",
    "$x",
    ":=",
    "=",
    "|",
    ",",
    "(",
    ")",
    '"',
    "`",
    "'",
    "1",
    "-1.5",
]
PIECES += [
    "if",
    "else",
    "end",
    "range",
    "with",
    "define",
    "template",
    "block",
    "break",
    "nil",
    "eq",
    "printf",
    "/*",
    "*/",
]


@given(
    st.one_of(
        st.text(), st.lists(st.sampled_from(PIECES)).map("".join), st.lists(st.sampled_from(PIECES)).map(" ".join)
    )
)
def test_whatever_the_text_there_is_an_answer_or_a_template_error(source: str) -> None:
    with suppress(TemplateError):
        assert isinstance(parse(source).render(DATA), str)
