from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from libs.common.contracts.tokens import Logprob
from services.worker.engines.base import Finish, Piece
from services.worker.engines.call_or_answer import call_or_answer

STOP, LENGTH = Finish("stop", 1, 1, 1, 1), Finish("length", 1, 1, 1, 1)
THINKING, CALL = Piece(thinking="hm"), Piece(tool_calls=({"function": {"name": "f"}},))
BOUND: list[Piece | Finish] = [THINKING, Piece("{", thinking="!"), Piece("}"), STOP]
ANSWER: list[Piece | Finish] = [Piece("{"), Piece("}"), STOP]


async def made_of(parts: list[Piece | Finish]) -> AsyncGenerator[Piece | Finish, None]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        ([THINKING, CALL, Piece("\n"), CALL, STOP], [THINKING, CALL, Piece("\n"), CALL, STOP]),
        ([THINKING, Piece("\n"), CALL, STOP], [THINKING, CALL, STOP]),
        ([THINKING, Piece("\nI say", thinking="!"), CALL, STOP], [THINKING, Piece(thinking="!"), *ANSWER]),
        ([THINKING, STOP], [THINKING, *ANSWER]),
        ([THINKING, LENGTH], [THINKING, LENGTH]),
    ],
)
async def test_a_call_is_taken_and_words_are_not(free: list[Piece | Finish], expected: list[Piece | Finish]) -> None:
    parts = [part async for part in call_or_answer(made_of(free), made_of(BOUND))]
    assert parts == expected


async def test_every_token_is_told_once_and_in_its_place() -> None:
    """Also those that only mark where thinking begins and ends."""
    opening, thought, closing, brace = (Piece(logprobs=(Logprob(token, -1.0),)) for token in ("<", "hm", ">", "{"))
    thinking = [opening, replace(thought, thinking="hm"), closing]
    free: list[Piece | Finish] = [*thinking, Piece("So"), STOP]
    bound: list[Piece | Finish] = [*thinking, replace(brace, text="{"), Piece("}"), STOP]
    parts = [part async for part in call_or_answer(made_of(free), made_of(bound))]
    assert parts == bound
