import json
import re

from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.tokens import Frame, StreamEnd, Usage
from libs.common.errors import EngineFailed
from services.gateway.api.ollama.lines import Lines, chat_message, generated_text
from services.gateway.api.ollama.wire import encode, now

GO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_a_chunk_is_one_line_to_every_reader(model: str, text: str) -> None:
    line = Lines(model, chat_message, 0).chunk(Frame("r", 1, 1, text))
    assert line.decode().splitlines() == [line.decode().removesuffix("\n")]
    chunk = json.loads(line)
    assert (chunk["model"], chunk["message"]["content"], chunk["done"]) == (model, text, False)
    assert GO_TIME.fullmatch(chunk["created_at"])


def test_unicode_line_breaks_are_escaped() -> None:
    assert encode("a\u2028b\u2029c\u0085d") == b'"a\\u2028b\\u2029c\\u0085d"'


def test_the_clock_counts_on() -> None:
    times = [now() for _ in range(50)]
    assert times == sorted(times)


def test_chat_shows_thinking_and_tool_calls() -> None:
    call = {"id": "call_1", "function": {"index": 0, "name": "f", "arguments": {"b": 1, "a": 2}}}
    line = Lines("m", chat_message, 0).chunk(Frame("r", 1, 1, "", thinking="hm", tool_calls=[call]))
    message = {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]}
    assert json.loads(line)["message"] == message


def test_the_last_line_has_every_metric_and_none_is_zero() -> None:
    end = StreamEnd("length", Usage(prompt_tokens=7, completion_tokens=2), context=[1, 2])
    last = json.loads(Lines("m", generated_text, 0, with_context=True).last(Frame("r", 1, 1, "x"), end))
    assert (last["response"], last["done"], last["done_reason"], last["context"]) == ("x", True, "length", [1, 2])
    assert (last["prompt_eval_count"], last["eval_count"]) == (7, 2)
    durations = [last[f"{name}_duration"] for name in ("total", "load", "prompt_eval", "eval")]
    assert all(duration >= 1 for duration in durations)


def test_context_is_left_out_where_it_makes_no_sense() -> None:
    last = Lines("m", chat_message, 0).last(Frame("r", 1, 1), StreamEnd(context=[1]))
    assert "context" not in json.loads(last)


def test_an_answer_that_breaks_ends_with_an_error_line() -> None:
    assert Lines("m", chat_message, 0).broken(EngineFailed("it\u2028broke")) == b'{"error":"it\\u2028broke"}\n'


def test_nothing_to_generate() -> None:
    answer = json.loads(Lines("m", chat_message, 0).without_text("load"))
    answer.pop("created_at")
    expected = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "load"}
    assert answer == expected
