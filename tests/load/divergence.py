"""``python -m tests.load.divergence [--trials N] [--kills N] [--write FILE]``: is an answer still itself elsewhere?

Two processes of SmolLM2 stand for two workers. An answer is made on the first, cut at a random piece, and taken over
by the second as a worker does it: continued from its token ids, or replayed. Alone, and while both run other answers,
whose number changes the shape of each batch and with it the last bits of its results. A few times the first is killed.
"""

import argparse
import asyncio
import logging
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog
import uvloop

from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.errors import EngineFailed, ReplayDiverged
from services.worker.engines import EngineConfig, Engines
from services.worker.engines.base import Job, LoadedEngine, LoadSpec, Piece
from services.worker.engines.llama_cpp import LlamaCppModel
from tests.fixtures.builders import a_model
from tests.fixtures.engines import answer_to, ask, chat, take_over
from tests.fixtures.suite import seed_model
from tests.load import report

Outcome = Literal["equal", "other", "refused"]
"""``other``: a right answer, but not the one that an undisturbed run gives. ``refused``: a replay that diverged."""

Workers = tuple[LoadedEngine, LoadedEngine]

TOKENS: Final = 48
OTHERS: Final = 3
SUBJECTS: Final = ("the sea", "a lighthouse", "winter", "two brothers", "a long journey", "bread", "the moon", "a dog")
SCHEMA: Final = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "text": {"type": "string"}},
    "required": ["title", "text"],
    "additionalProperties": False,
}
TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "remember",
            "description": "Keep a text",
            "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        },
    }
]


PLAIN: Final = a_model()


@dataclass(frozen=True)
class Kind:
    """One way to ask. ``ask`` gets a subject and a seed."""

    name: str
    ask: Callable[[str, int], InferenceTask]
    model: ModelRef = PLAIN


def _story(subject: str, **changes: object) -> InferenceTask:
    return chat(f"Write a story about {subject}.", num_predict=TOKENS, **changes)


KINDS: Final = (
    Kind("greedy", lambda subject, _: _story(subject)),
    Kind("greedy, penalties", lambda subject, _: _story(subject, repeat_penalty=1.1, frequency_penalty=0.5)),
    Kind("temperature 0.8, seed", lambda subject, seed: _story(subject, temperature=0.8, seed=seed)),
    Kind("greedy, JSON schema", lambda subject, _: _story(subject, format=SCHEMA)),
    Kind(
        "temperature 0.8, JSON schema",
        lambda subject, seed: _story(subject, format=SCHEMA, temperature=0.8, seed=seed),
    ),
    Kind("greedy, logprobs", lambda subject, _: _story(subject, logprobs=True, top_logprobs=2)),
    Kind("greedy, tools", lambda subject, _: _story(subject, tools=TOOLS)),
    Kind(
        "greedy, thinking",
        lambda subject, _: _story(subject, think=True),
        a_model(capabilities=("completion", "thinking")),
    ),
)


async def killed(job: Job, pieces: int) -> list[Piece]:
    """What a process has sent that is killed when it has sent so many."""
    sent: list[Piece] = []
    async with a_worker() as victim, aclosing(victim.generate(job)) as parts:
        with suppress(EngineFailed):
            async for part in parts:
                sent += [part] if isinstance(part, Piece) else []
                if len(sent) == pieces:
                    os.kill(victim.pid, signal.SIGKILL)
    return sent


async def trial(first: LoadedEngine, second: LoadedEngine, job: Job, cut: float, kills: bool) -> Outcome:
    """``cut``: after which share of the pieces."""
    undisturbed = await answer_to(first, job)
    pieces = max(1, int(cut * len(undisturbed.pieces)))
    sent = await killed(job, pieces) if kills else undisturbed.pieces[:pieces]
    try:
        answer = await take_over(second, job, sent)
    except ReplayDiverged:
        return "refused"
    return "equal" if (answer.thinking, answer.text) == (undisturbed.thinking, undisturbed.text) else "other"


async def measure(workers: Workers, kind: Kind, trials: int, *, kills: bool) -> Counter[Outcome]:
    chance, outcomes = random.Random(kind.name), Counter[Outcome]()
    for number in range(trials):
        job = Job(f"r{number}", kind.ask(SUBJECTS[number % len(SUBJECTS)], number), kind.model)
        outcomes[await trial(*workers, job, chance.random(), kills)] += 1
    return outcomes


@asynccontextmanager
async def others_running(loaded: Sequence[LoadedEngine], count: int) -> AsyncIterator[None]:
    """``count`` answers on each, of changing lengths, one after the other."""

    async def keep_busy(engine: LoadedEngine, number: int) -> None:
        chance = random.Random(number)
        while True:
            task = chat(f"Tell me of {chance.choice(SUBJECTS)} and {number}.", num_predict=chance.randrange(8, 64))
            await ask(engine, task)

    tasks = [asyncio.create_task(keep_busy(engine, number)) for engine in loaded for number in range(count)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks) if tasks else None


@asynccontextmanager
async def a_worker() -> AsyncIterator[LlamaCppModel]:
    spec = LoadSpec(a_model(name="smollm2:135m", engine="llama_cpp"), seed_model(), 1024, OTHERS + 1)
    model = await Engines(EngineConfig(threads=1))["llama_cpp"].load(spec)
    assert isinstance(model, LlamaCppModel)
    try:
        yield model
    finally:
        await model.close()


async def main(trials: int, kills: int) -> str:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rows = []
    async with a_worker() as first, a_worker() as second:
        for kind in KINDS:
            print(kind.name, file=sys.stderr, flush=True)
            alone = await measure((first, second), kind, trials, kills=False)
            async with others_running((first, second), OTHERS):
                busy = await measure((first, second), kind, trials, kills=False)
            struck = await measure((first, second), kind, kills, kills=True)
            way = "continued" if first.can_resume(Job("r", kind.ask("", 0), kind.model)) else "replayed"
            rows.append((kind.name, way, *map(shown, (alone, busy, struck))))
    columns = ("alone", f"{OTHERS} others running", "first one killed")
    return report.table(("real engine: equal / other / refused", "way", *columns), rows)


def shown(outcomes: Counter[Outcome]) -> str:
    return f"{outcomes['equal']} / {outcomes['other']} / {outcomes['refused']}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.load.divergence", description=__doc__)
    parser.add_argument("--trials", type=int, default=8, help="of each kind")
    parser.add_argument("--kills", type=int, default=2, help="of each kind")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file, between markers")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse_arguments()
    text = uvloop.run(main(options.trials, options.kills))
    print(text)
    if options.write:
        report.write(options.write, text, "divergence")
