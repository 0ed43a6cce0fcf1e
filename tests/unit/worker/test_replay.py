import pytest

from libs.common.contracts.tokens import Frame, Logprob
from libs.common.errors import ReplayDiverged
from services.worker.engines.base import Piece
from services.worker.replay import Replay


def replay_of(text: str) -> Replay:
    replay = Replay.of([Frame("r", 1, 1, text=text[:2]), Frame("r", 1, 2, text=text[2:])])
    assert replay is not None
    return replay


def feed(replay: Replay, *texts: str) -> str:
    return "".join(new.text for text in texts if (new := replay.after(Piece(text=text))) is not None)


@pytest.mark.parametrize("cuts", [("hello world",), ("hel", "lo wor", "ld"), tuple("hello world"), ("hello", " world")])
def test_only_what_is_new_comes_out(cuts: tuple[str, ...]) -> None:
    assert feed(replay_of("hello"), *cuts) == " world"


def test_nothing_sent_means_nothing_to_replay() -> None:
    assert Replay.of([]) is None
    assert Replay.of([Frame("r", 1, 1)]) is None


def test_a_different_text_is_an_error() -> None:
    with pytest.raises(ReplayDiverged):
        feed(replay_of("hello"), "help")


def test_an_answer_that_ends_too_early_is_an_error() -> None:
    replay = replay_of("hello")
    assert feed(replay, "hell") == ""
    with pytest.raises(ReplayDiverged):
        replay.finish()


CALLS = [{"id": f"call_{i}", "function": {"index": i, "name": "f", "arguments": {}}} for i in range(2)]
LOGPROBS = [Logprob("a", -1.0), Logprob("b", -2.0)]


def test_whole_calls_that_were_sent_are_not_sent_again() -> None:
    replay = Replay([Frame("r", 1, 1, tool_calls=CALLS[:1])])
    assert replay.after(Piece(tool_calls=tuple(CALLS))) == Piece(tool_calls=(CALLS[1],))
    replay.finish()


def test_logprobs_are_compared_by_token() -> None:
    replay = Replay([Frame("r", 1, 1, text="a", logprobs=LOGPROBS[:1])])
    again = (Logprob("a", -1.0000001), LOGPROBS[1])
    assert replay.after(Piece(text="ab", logprobs=again)) == Piece(text="b", logprobs=(LOGPROBS[1],))
    replay.finish()


def test_thinking_text_and_logprobs_are_cut_each_by_itself() -> None:
    replay = Replay([Frame("r", 1, 1, thinking="hm", logprobs=LOGPROBS), Frame("r", 1, 2, text="a")])
    assert replay.after(Piece(thinking="hm", logprobs=(LOGPROBS[0],))) is None
    assert replay.after(Piece(text="ab", logprobs=(LOGPROBS[1],))) == Piece(text="b")
    replay.finish()


@pytest.mark.parametrize(
    "piece", [Piece(tool_calls=(CALLS[1],)), Piece(thinking="ha"), Piece(logprobs=(Logprob("x", 0.0),))]
)
def test_any_difference_is_an_error(piece: Piece) -> None:
    replay = Replay([Frame("r", 1, 1, thinking="hm", tool_calls=CALLS[:1], logprobs=LOGPROBS[:1])])
    with pytest.raises(ReplayDiverged):
        replay.after(piece)


@pytest.mark.parametrize("frame", [Frame("r", 1, 1, tool_calls=CALLS), Frame("r", 1, 1, logprobs=LOGPROBS)])
def test_what_does_not_come_again_is_an_error(frame: Frame) -> None:
    with pytest.raises(ReplayDiverged):
        Replay([frame]).finish()
