import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.engines.thinking import Split, Tags, ThinkingSplitter

TAGS = Tags("<think>", "</think>")


def split(*texts: str, inside: bool = False) -> Split:
    splitter = ThinkingSplitter(TAGS, inside=inside)
    parts = [*(splitter.add(text) for text in texts), splitter.finish()]
    return Split("".join(part.thinking for part in parts), "".join(part.content for part in parts))


CASES = [
    pytest.param("<think>hm</think>yes", Split("hm", "yes"), id="both"),
    pytest.param("\n <think>\n hm \n</think>\n\nyes\n", Split("hm", "yes\n"), id="white space around the thinking"),
    pytest.param("yes", Split("", "yes"), id="no thinking"),
    pytest.param("  yes", Split("", "  yes"), id="no thinking keeps its white space"),
    pytest.param("<thin", Split("", "<thin"), id="half a tag"),
    pytest.param("<b>x", Split("", "<b>x"), id="another tag"),
    pytest.param("yes <think>x</think>", Split("", "yes <think>x</think>"), id="a tag later on is content"),
    pytest.param("<think>a </thin b</think>c", Split("a </thin b", "c"), id="nearly the end"),
    pytest.param("<think>a</think>b</think>c", Split("a", "b</think>c"), id="the end twice"),
    pytest.param("<think>cut off </thi", Split("cut off </thi", ""), id="cut off"),
    pytest.param("<think></think>x", Split("", "x"), id="empty"),
    pytest.param("", Split(), id="nothing"),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_however_it_is_cut(text: str, expected: Split) -> None:
    assert split(text) == expected
    assert split(*text) == expected
    for at in range(len(text)):
        assert split(text[:at], text[at:]) == expected


def test_a_prompt_that_has_opened_it() -> None:
    assert split("hm</think>yes", inside=True) == Split("hm", "yes")


def test_what_is_certain_comes_at_once() -> None:
    splitter = ThinkingSplitter(TAGS)
    assert splitter.add("<think>let me") == Split("let me", "")
    assert splitter.add(" see </th") == Split(" see", "")
    assert splitter.add("ink>so") == Split("", "so")


@given(thinking=st.text(alphabet="a <>/think\n"), content=st.text(), cuts=st.lists(st.integers(0, 40)))
def test_nothing_is_lost_wherever_it_is_cut(thinking: str, content: str, cuts: list[int]) -> None:
    text = f"<think>{thinking}</think>{content}"
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    parts = [text[a:b] for a, b in itertools.pairwise(places)]
    assert split(*parts) == split(text)
    if "</think>" not in thinking:
        assert split(text) == Split(thinking.strip(), content.lstrip())
