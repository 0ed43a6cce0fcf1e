import json
import re

from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.tokens import Frame, Logprob, StreamEnd, Usage
from libs.common.errors import EngineFailed
from services.gateway.api.ollama.lines import Lines, chat_message, generated_text
from services.gateway.api.ollama.wire import encode, now

GO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_a_chunk_is_one_line_to_every_reader(model: str, text: str) -> None:
    line = Lines(model, chat_message, 0).chunk(Frame("r", 1, 1, text), 0)
    assert line.decode().splitlines() == [line.decode().removesuffix("\n")]
    chunk = json.loads(line)
    assert (chunk["model"], chunk["message"]["content"], chunk["done"]) == (model, text, False)
    assert GO_TIME.fullmatch(chunk["created_at"])


def test_unicode_line_breaks_are_escaped() -> None:
    assert encode("a\u2028b\u2029c\u0085d") == b'"a\\u2028b\\u2029c\\u0085d"'


def test_the_clock_counts_on() -> None:
    times = [now() for _ in range(50)]
    assert times == sorted(times)


CALL = {"id": "call_1", "function": {"index": 0, "name": "f", "arguments": {"b": 1, "a": 2}}}


def test_tool_calls_are_shown_as_they_are() -> None:
    message = json.loads(Lines("m", chat_message, 0).chunk(Frame("r", 1, 1, tool_calls=[CALL]), 0))["message"]
    assert message == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert list(message["tool_calls"][0]["function"]["arguments"]) == ["b", "a"]


def test_thinking_has_lines_of_its_own() -> None:
    frame = Frame("r", 1, 1, "so", thinking="hm", tool_calls=[CALL], logprobs=[Logprob("hm", -1.0)])
    chat, generate = Lines("m", chat_message, 0), Lines("m", generated_text, 0)
    first, second = map(json.loads, chat.chunk(frame, 0).splitlines())
    assert first["message"] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert second["message"] == {"role": "assistant", "content": "so", "tool_calls": [CALL]}
    assert ("logprobs" in first, "logprobs" in second) == (True, False)
    first, second = map(json.loads, generate.last(frame, StreamEnd(), 0).splitlines())
    assert (first["thinking"], first["response"], first["done"]) == ("hm", "", False)
    assert ("thinking" in second, second["response"], second["done"]) == (False, "so", True)


def test_a_whole_answer_has_everything_in_one_object() -> None:
    frame = Frame("r", 1, 1, "so", thinking="hm")
    answer = json.loads(Lines("m", generated_text, 0).whole(frame, StreamEnd()))
    assert (answer["thinking"], answer["response"], answer["done"]) == ("hm", "so", True)


def test_the_last_line_has_every_metric_and_none_is_zero() -> None:
    end = StreamEnd("length", Usage(prompt_tokens=7, completion_tokens=2), context=[1, 2])
    last = json.loads(Lines("m", generated_text, 0, with_context=True).last(Frame("r", 1, 1, "x"), end, 0))
    assert (last["response"], last["done"], last["done_reason"], last["context"]) == ("x", True, "length", [1, 2])
    assert (last["prompt_eval_count"], last["eval_count"]) == (7, 2)
    durations = [last[f"{name}_duration"] for name in ("total", "load", "prompt_eval", "eval")]
    assert all(duration >= 1 for duration in durations)


def test_context_is_left_out_where_it_makes_no_sense() -> None:
    last = Lines("m", chat_message, 0).last(Frame("r", 1, 1), StreamEnd(context=[1]), 0)
    assert "context" not in json.loads(last)


def test_an_answer_that_breaks_ends_with_an_error_line() -> None:
    assert Lines("m", chat_message, 0).broken(EngineFailed("it\u2028broke")) == b'{"error":"it\\u2028broke"}\n'


def test_nothing_to_generate() -> None:
    answer = json.loads(Lines("m", chat_message, 0).without_text("load"))
    answer.pop("created_at")
    expected = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "load"}
    assert answer == expected
