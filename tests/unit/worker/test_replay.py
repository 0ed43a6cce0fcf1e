import pytest

from libs.common.contracts.tokens import Frame
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
