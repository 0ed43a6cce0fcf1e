import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidModelName
from services.registry.names import ModelName, parse

PART = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", fullmatch=True)
MODEL = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", fullmatch=True)
HOST = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,60}(:[0-9]{1,5})?", fullmatch=True)
NAMES = st.builds(ModelName, HOST, PART, MODEL, MODEL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("foo", ModelName("registry.ollama.ai", "library", "foo", "latest")),
        ("foo:7b", ModelName("registry.ollama.ai", "library", "foo", "7b")),
        ("ns/foo", ModelName("registry.ollama.ai", "ns", "foo", "latest")),
        ("host.example/ns/foo:1", ModelName("host.example", "ns", "foo", "1")),
        ("localhost:5000/ns/foo", ModelName("localhost:5000", "ns", "foo", "latest")),
        ("https://localhost:5000/ns/foo:x", ModelName("localhost:5000", "ns", "foo", "x")),
        ("  foo  ", ModelName("registry.ollama.ai", "library", "foo", "latest")),
        ("Qwen2.5-Coder:0.5B_q4", ModelName("registry.ollama.ai", "library", "Qwen2.5-Coder", "0.5B_q4")),
    ],
)
def test_parse(text: str, expected: ModelName) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ":", "foo:", ":7b", "/foo", "ns/", "a/b/c/d", "foo:a:b", "a.b/foo", "foo@sha256:abc"),
        *("..", "../../etc/passwd", "ns/..", "foo:../x", ".foo", "-foo"),
        *("foo bar", "foö", "foo\n:x", "foo\x00", "x" * 81, "foo:" + "x" * 81),
    ],
)
def test_not_a_name(text: str) -> None:
    with pytest.raises(InvalidModelName):
        parse(text)


@pytest.mark.parametrize(
    ("text", "display", "short"),
    [
        ("foo", "foo:latest", "foo"),
        ("registry.ollama.ai/library/foo:1", "foo:1", "foo:1"),
        ("library/Foo", "Foo:latest", "Foo"),
        ("me/foo", "me/foo:latest", "me/foo"),
        ("host/library/foo", "host/library/foo:latest", "host/library/foo"),
    ],
)
def test_display(text: str, display: str, short: str) -> None:
    assert parse(text).display == display
    assert parse(text).short == short


@given(NAMES)
def test_what_is_displayed_means_the_same(name: ModelName) -> None:
    again = parse(name.display)
    assert again.display == name.display
    assert (again.model, again.tag) == (name.model, name.tag)
    assert parse(name.short).display.lower() == name.display.lower()


@given(st.text(max_size=40))
def test_any_text_is_a_name_that_is_safe_in_a_path_or_refused(text: str) -> None:
    try:
        name = parse(text)
    except InvalidModelName:
        return
    for part in (name.host, name.namespace, name.model, name.tag):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*", part)
