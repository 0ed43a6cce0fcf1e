"""The language, by the rules of Go's documentation."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from libs.common.go_template import parse

DATA: dict[str, Any] = {
    "Response": "",
    "Text": "héllo",
    "Empty": "",
    "Zero": 0,
    "Three": 3,
    "Half": 0.5,
    "Yes": True,
    "Nil": None,
    "List": ["a", "b", "c"],
    "Map": {"b": 1, "a": {"x": [1, None, "t", 2.5, False]}},
}


def render(source: str) -> str:
    return parse(source + "{{ .Response }}").render(DATA)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("no actions", "no actions"),
        ("a {{ 1 }} b", "a 1 b"),
        ("a {{- 1 -}} b", "a1b"),
        ("a \n\t{{- 1 -}}\r\n b", "a1b"),
        ("{{-3}}", "-3"),
        ("{{- -3 -}}", "-3"),
        ("a {{/* a comment }} */}} b", "a  b"),
        ("a {{- /* a comment */ -}} b", "ab"),
        ('{{ "}}" }}{{ `{{` }}', "}}{{"),
        ("{{ .Text\n}}", "héllo"),
    ],
)
def test_text_is_trimmed_where_the_markers_say(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('{{ "a\\tb\\n\\"\\u00e9\\x41\\101" }}', 'a\tb\n"éAA'),
        ("{{ `raw\\n` }}", "raw\\n"),
        ("{{ 'a' }} {{ '\\n' }}", "97 10"),
        ("{{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 017 }} {{ 1_000 }}", "31 5 15 15 1000"),
        ("{{ 1.50 }} {{ 1e3 }} {{ 1e6 }} {{ 1.25e-5 }} {{ -0.0 }} {{ .5 }}", "1.5 1000 1e+06 1.25e-05 -0 0.5"),
        ("{{ true }} {{ false }}", "true false"),
    ],
)
def test_literals(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ .List }}", "[a b c]"),
        ("{{ .Map }}", "map[a:map[x:[1 <nil> t 2.5 false]] b:1]"),
        ("{{ .Missing }}{{ .Nil }}", "<no value><no value>"),
        ("{{ .Yes }} {{ .Half }}", "true 0.5"),
        ("{{ json .Map }}", '{"b":1,"a":{"x":[1,null,"t",2.5,false]}}'),
        ('{{ json "<a> & \\"é\\"\\n" }}', '"\\u003ca\\u003e \\u0026 \\"é\\"\\n"'),
        ("{{ json 1e21 }} {{ json 1e20 }} {{ json 1e-7 }} {{ json 2.0 }}", "1e+21 100000000000000000000 1e-7 2"),
    ],
)
def test_values_print_as_in_go(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", "no"),
        ("x", "yes"),
        (0, "no"),
        (-1, "yes"),
        (0.0, "no"),
        (False, "no"),
        (None, "no"),
        ([], "no"),
        ([0], "yes"),
        ({}, "no"),
        ({"a": 0}, "yes"),
    ],
)
def test_truth(value: object, expected: str) -> None:
    template = parse("{{ if .Value }}yes{{ else }}no{{ end }}{{ .Response }}")
    assert template.render({"Value": value, "Response": ""}) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ if .Zero }}1{{ else if .Empty }}2{{ else if .Yes }}3{{ else }}4{{ end }}", "3"),
        ("{{ with .Text }}{{ . }}{{ end }}{{ with .Empty }}x{{ else }}-{{ end }}", "héllo-"),
        ("{{ with .Empty }}1{{ else with .Three }}{{ . }}{{ else }}2{{ end }}", "3"),
        ("{{ with $x := .Three }}{{ $x }}{{ . }}{{ $.Text }}{{ end }}", "33héllo"),
        ("{{ range .List }}{{ . }}{{ end }}", "abc"),
        ("{{ range $e := .List }}{{ $e }}{{ end }}", "abc"),
        ("{{ range $i, $e := .List }}{{ $i }}{{ $e }} {{ end }}", "0a 1b 2c "),
        ("{{ range $k, $v := .Map }}{{ $k }}{{ end }}", "ab"),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        ("{{ range .Nil }}x{{ else }}none{{ end }}{{ range .Empty | len }}x{{ else }}none{{ end }}", "nonenone"),
        ('{{ range .List }}{{ if eq . "b" }}{{ continue }}{{ end }}{{ . }}{{ end }}', "ac"),
        ('{{ range .List }}{{ if eq . "b" }}{{ break }}{{ end }}{{ . }}{{ end }}', "a"),
        ("{{ range .List }}{{ range $.List }}{{ break }}{{ end }}{{ . }}{{ end }}", "abc"),
        ("{{ $x := 1 }}{{ range .List }}{{ $x = . }}{{ end }}{{ $x }}", "c"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ("{{ $e := 9 }}{{ range $e = .List }}{{ end }}{{ $e }}", "c"),
        ('{{ define "t" }}[{{ . }}{{ $ }}]{{ end }}{{ template "t" .Three }}', "[33]"),
        ('{{ template "t" }}{{ define "t" }}[{{ . }}]{{ end }}', "[<no value>]"),
        ('{{ block "b" .Three }}<{{ . }}>{{ end }}{{ template "b" 4 }}', "<3><4>"),
    ],
)
def test_statements(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ .Map.a.x }}", "[1 <nil> t 2.5 false]"),
        ("{{ (index .Map `a`).x }} {{ $m := .Map }}{{ $m.b }} {{ $.Map.b }}", "[1 <nil> t 2.5 false] 1 1"),
        ('{{ index .Map "a" "x" 2 }} {{ index .List 1 }} {{ index .Text 1 }}', "t b 195"),
        ("{{ .Three | printf `%d-%d` 2 }} {{ `x` | print }}", "2-3 x"),
        ("{{ and 1 0 2 }} {{ and 1 2 }} {{ or 0 `` 3 }} {{ or 0 false }} {{ not 0 }}", "0 2 3 false true"),
        ("{{ or true (index .List 9) }} {{ and false (index .List 9) }}", "true false"),
        ("{{ eq 1 1 }} {{ eq 1 2 3 1 }} {{ ne `a` `b` }} {{ eq .Nil nil }} {{ eq 1 1.0 }}", "true true true true true"),
        ("{{ lt 1 2 }} {{ le 2 2 }} {{ gt `b` `a` }} {{ ge 1.5 2 }}", "true true true false"),
        ("{{ len .Text }} {{ len .List }} {{ len .Map }}", "6 3 2"),
        ("{{ slice .List 1 }} {{ slice .List 1 2 }} {{ slice .Text 3 }} {{ slice .List }}", "[b c] [b] llo [a b c]"),
        ("{{ print 1 2 `a` 3 }} {{ println 1 `a` }}", "1 2a3 1 a\n"),
        (
            "{{ html `<a href='x'>` }} {{ js `it's` }} {{ urlquery `a b&c` }}",
            "&lt;a href=&#39;x&#39;&gt; it\\'s a+b%26c",
        ),
        ('{{ printf `%v %s %q %d %t` .List .Text `a"b` 3 true }}', '[a b c] héllo "a\\"b" 3 true'),
        (
            "{{ printf `%5d|%-5s|%05d|%.2f|%x|%c|%%|%T` 3 `a` -42 1.5 255 97 1.5 }}",
            "    3|a    |-0042|1.50|ff|a|%|float64",
        ),
        ("{{ printf `%d` `x` }} {{ printf `%d` }} {{ printf `` 1 }}", "%!d(string=x) %!d(MISSING) %!(EXTRA int=1)"),
        ("{{ toTypeScriptType 1 }}", "any"),
    ],
)
def test_expressions(source: str, expected: str) -> None:
    assert render(source) == expected


def test_dates() -> None:
    today = datetime.now().astimezone()
    assert render("{{ currentDate }}") == today.strftime("%Y-%m-%d")
    assert render("{{ yesterdayDate }}") == (today - timedelta(days=1)).strftime("%Y-%m-%d")
