"""The program must be right before the suite is: verdicts on made-up histories."""

import math
from dataclasses import replace

import pytest

from tests.chaos.questions import Question, Questions, is_vector_of, real
from tests.chaos.verdict import History, Piece, Verdict, compare, in_sequence, judge

UNITS = ("w0", "w1", "w2", "w3")
QUESTION = Question("generate", "/", {}, UNITS, "w0 w1 w2 w3", 4)
REAL = next(real())


def a_history(text: str, question: Question = QUESTION, end: str = "done", tokens: int = 4) -> History:
    pieces = [Piece(float(at), at + 1, word) for at, word in enumerate(text.split("|"))]
    return History(question, 0.0, pieces, "r", end, tokens=tokens, ended=float(len(pieces)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w0| w1| w2| w3", Verdict.INTACT),
        ("w0 w1| w2 w3", Verdict.INTACT),
        ("w0| w1| w2", Verdict.LOST),
        ("w0| w2| w3", Verdict.LOST),
        ("", Verdict.LOST),
        ("w0| w1| w1| w2| w3", Verdict.DOUBLED),
        ("w0| w1| w0| w1| w2| w3", Verdict.DOUBLED),
        ("w0| w2| w1| w3", Verdict.SWAPPED),
        ("w0| w1| w2| w3| w4", Verdict.WRONG),
        ("w0|w1| w2| w3", Verdict.WRONG),
    ],
)
def test_an_answer_that_ended(text: str, expected: Verdict) -> None:
    assert judge(a_history(text)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w0| w1", Verdict.ERROR),
        ("", Verdict.ERROR),
        ("w0| w0", Verdict.DOUBLED),
        ("w1| w0", Verdict.SWAPPED),
        ("w0| w2", Verdict.LOST),
    ],
)
def test_an_error_does_not_excuse_what_was_wrong_before_it(text: str, expected: Verdict) -> None:
    assert judge(a_history(text, end="stream_lost")) is expected


def test_what_never_ends_hangs() -> None:
    assert judge(a_history("w0| w1", end="")) is Verdict.HUNG
    assert judge(replace(a_history("w0| w1| w2| w3"), silent=True)) is Verdict.HUNG


def test_tokens_that_are_billed_twice_are_seen() -> None:
    assert judge(a_history("w0| w1| w2| w3", tokens=8)) is Verdict.WRONG


def test_logprobs_are_compared() -> None:
    asked = replace(QUESTION, logprobs=UNITS)
    history = a_history("w0| w1| w2| w3", asked)
    assert judge(history) is Verdict.WRONG
    history.pieces = [replace(piece, logprobs=(piece.text,)) for piece in history.pieces]
    assert judge(history) is Verdict.INTACT


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([1, 2, 3], Verdict.INTACT),
        ([1, 2, 2, 3], Verdict.DOUBLED),
        ([1, 3], Verdict.LOST),
        ([2, 3], Verdict.LOST),
        ([1, 2, 1], Verdict.SWAPPED),
    ],
)
def test_a_real_models_pieces_are_numbered(numbers: list[int], expected: Verdict) -> None:
    pieces = [Piece(0.0, number, "x") for number in numbers]
    assert in_sequence(pieces) is expected
    assert judge(History(REAL, 0.0, pieces, "r", "done", tokens=3)) is expected


def test_a_real_model_must_say_something_and_count_it() -> None:
    assert judge(History(REAL, 0.0, [Piece(0.0, 1)], "r", "done", tokens=1)) is Verdict.WRONG
    assert judge(History(REAL, 0.0, [Piece(0.0, 1, "x")], "r", "done", tokens=0)) is Verdict.WRONG


def test_a_frame_with_thinking_and_text_is_two_pieces() -> None:
    assert in_sequence([Piece(0.0, 1, thinking="t0"), Piece(0.0, 1, "w0"), Piece(0.0, 2, "w1")]) is Verdict.INTACT


def test_the_gap_is_that_of_a_stream_that_was_running() -> None:
    history = History(QUESTION, 0.0, [Piece(1.0, 1), Piece(2.0, 2), Piece(7.0, 3)], ended=7.5)
    assert history.gap(since=3.0, until=9.0) == 5.0
    assert history.gap(since=7.2, until=9.0) == 0.5
    assert math.isnan(history.gap(since=0.5, until=9.0))
    assert math.isnan(history.gap(since=8.0, until=9.0))
    assert replace(history, ended=0.0).gap(since=8.0, until=30.0) == 23.0


def test_every_question_is_answered_by_its_own_units() -> None:
    echo = Questions(rate=10).echo()
    for question in (next(echo) for _ in range(50)):
        assert question.units
        assert len(set(question.units)) == len(question.units)
        assert compare(question.units, question.units, whole=True) is Verdict.INTACT


def test_a_vector_is_known() -> None:
    assert not is_vector_of("a text", [])
    assert not is_vector_of("a text", [0.125] * 64)
