import re
from typing import Any

import pytest

from services.worker.engines.tool_calls import LONGEST_CALL, CallNumbering, StreamedCalls, ToolCallSplitter

OFFERED = {"weather", "time"}
CALL = '{"name": "weather", "arguments": {"city": "Par}is\\"", "days": 2}}'
ARGUMENTS = {"city": 'Par}is"', "days": 2}
OTHER = '{"name": "time", "parameters": {}}'


def found(*texts: str, tag: str = "<tool_call>") -> tuple[str, list[tuple[str, Any]]]:
    """Content and the calls' names and arguments."""
    splitter = ToolCallSplitter(tag, OFFERED, CallNumbering("r"))
    content = ""
    calls: list[dict[str, Any]] = []
    for text in texts:
        more, whole = splitter.add(text)
        content += more
        calls += whole
    assert [call["function"]["index"] for call in calls] == list(range(len(calls)))
    return content + splitter.finish(), [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


CASES = [
    pytest.param("hello", "<tool_call>", "hello", [], id="no call"),
    pytest.param(f"<tool_call>{CALL}</tool_call>", "<tool_call>", "", [("weather", ARGUMENTS)], id="one call"),
    pytest.param(f"sure <tool_call>\n{CALL}\n</tool_call>\n<tool_call>{OTHER}</tool_call>", "<tool_call>", "sure ",
        [("weather", ARGUMENTS), ("time", {})], id="two calls behind a text"),
    pytest.param(f"[TOOL_CALLS] [{CALL}, {OTHER}]", "[TOOL_CALLS]", "",
        [("weather", ARGUMENTS), ("time", {})], id="a list"),
    pytest.param(CALL, "{", "", [("weather", ARGUMENTS)], id="a bracket for a tag"),
    pytest.param(f"[{CALL}]", "[", "", [("weather", ARGUMENTS)], id="a list without a tag"),
    pytest.param(f"see {CALL}", "{", f"see {CALL}", [], id="a bracket counts only at the beginning"),
    pytest.param('{"answer": 1}', "{", '{"answer": 1}', [], id="other JSON is content"),
    pytest.param('<tool_call>{"name": "rm", "arguments": {}}', "<tool_call>",
        '<tool_call>{"name": "rm", "arguments": {}}', [], id="a tool nobody offered"),
    pytest.param(f"<tool_call>{CALL[:30]}", "<tool_call>", f"<tool_call>{CALL[:30]}", [], id="cut off"),
    pytest.param(f"<tool_call>{{'no': json}} {CALL}", "<tool_call>", "", [("weather", ARGUMENTS)], id="no JSON"),
    pytest.param(f'<tool_call>{{"function": {CALL}}}', "<tool_call>", "", [("weather", ARGUMENTS)], id="in a function"),
    pytest.param("a <tool_", "<tool_call>", "a <tool_", [], id="half a tag"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "tag", "content", "calls"), CASES)
def test_however_it_is_cut(text: str, tag: str, content: str, calls: list[Any]) -> None:
    assert found(text, tag=tag) == (content, calls)
    assert found(*text, tag=tag) == (content, calls)


def test_the_order_of_arguments_is_kept() -> None:
    _, [(_, arguments)] = found('<tool_call>{"name": "time", "arguments": {"z": 1, "a": 2}}')
    assert list(arguments) == ["z", "a"]


@pytest.mark.parametrize(
    ("tag", "unseen", "text"),
    [
        ("<tool_call>", "<tool_call>", f"\n{CALL}\n</tool_call>\n<tool_call>{OTHER}"),
        ("[", "[", f"{CALL}, {OTHER}]"),
        ("{", "", f"{CALL}\n{OTHER}"),
    ],
)
def test_a_call_that_is_expected_needs_no_tag(tag: str, unseen: str, text: str) -> None:
    splitter = ToolCallSplitter(tag, OFFERED, CallNumbering("r"))
    assert splitter.expect() == unseen
    names = [call["function"]["name"] for letter in text for call in splitter.add(letter)[1]]
    assert (names, splitter.found, splitter.finish()) == (["weather", "time"], True, "")


def test_a_call_without_end_is_content() -> None:
    text = '<tool_call>{"' + "x" * LONGEST_CALL
    assert found(text, "more") == (text + "more", [])


def test_deep_nesting_is_no_call() -> None:
    text = "<tool_call>" + "[" * 100_000 + "]" * 100_000
    assert found(text) == (text, [])


def test_ids_are_the_same_again_and_differ_from_call_to_call() -> None:
    first, again = CallNumbering("r"), CallNumbering("r")
    calls = [first.call("f", {}), first.call("f", {})]
    assert calls == [again.call("f", {}), again.call("f", {})]
    assert len({call["id"] for call in calls}) == 2
    assert all(re.fullmatch("call_[0-9a-z]{8}", call["id"]) for call in calls)


def a_fragment(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments} | ({"name": name} if name else {})}


def test_fragments_become_whole_calls() -> None:
    calls = StreamedCalls(CallNumbering("r"))
    assert calls.add([a_fragment(0, '{"a"', "f")]) == ()
    assert calls.add([a_fragment(0, ": 1}")]) == ()
    [first] = calls.add([a_fragment(1, "", "g")])
    [second] = calls.finish()
    assert first["function"] == {"index": 0, "name": "f", "arguments": {"a": 1}}
    assert second["function"] == {"index": 1, "name": "g", "arguments": {}}
    assert calls.finish() == ()


def test_all_but_the_first_call_are_dropped_if_only_one_is_wanted() -> None:
    calls = StreamedCalls(CallNumbering("r"), only_one=True)
    [first] = calls.add([a_fragment(0, "{}", "f"), a_fragment(1, "{}", "g")])
    assert first["function"]["name"] == "f"
    assert calls.add([a_fragment(2, "{}", "h")]) == calls.finish() == ()


def test_a_number_longer_than_64_bits_is_rounded() -> None:
    calls = StreamedCalls(CallNumbering("r"))
    calls.add([a_fragment(0, '{"a": 12345678901234567890}', "f"), a_fragment(1, '{"a": 123456789012345678901}', "f")])
    [call] = calls.finish()
    assert call["function"]["arguments"] == {"a": 123456789012345678901.0}
    assert isinstance(call["function"]["arguments"]["a"], float)
    _, [(_, arguments)] = found('<tool_call>{"name": "time", "arguments": {"a": 123456789012345678901}}')
    assert isinstance(arguments["a"], float)


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "nonsense", '{"a": "\\ud800"}'])
def test_a_call_that_was_cut_off_is_none(arguments: str) -> None:
    calls = StreamedCalls(CallNumbering("r"))
    calls.add([a_fragment(0, arguments, "f")])
    assert calls.finish() == ()
