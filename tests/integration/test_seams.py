"""Where an answer changes its engine. Two processes of the real model stand for two workers: what the second adds to
what the first has sent must be what the first would have sent, wherever it was cut.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from libs.common.contracts.inference import InferenceTask, ModelRef
from libs.common.errors import ReplayDiverged
from services.worker.engines import EngineConfig, Engines
from services.worker.engines.base import Job, LoadedEngine, LoadSpec, Piece
from services.worker.engines.llama_completion import seed_at
from services.worker.engines.llama_cpp import LlamaCppModel
from tests.fixtures.builders import a_model
from tests.fixtures.engines import Answer, ask, chat, embedding, generate, job, load, replayed, take_over
from tests.fixtures.scripted_gguf import write_scripted_gguf
from tests.fixtures.suite import seed_model
from tests.integration.test_llama_chat import BOTH, JINJA, SCRIPT, WEATHER

TALE = "Write a story about the sea."
TEXTS = "Copy exactly: 🎉🎊 日本語 🎉🎊 日本語 🎉🎊 日本語 🎉🎊"
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "pages": {"type": "integer"}},
    "required": ["title", "pages"],
    "additionalProperties": False,
}

Workers = tuple[LlamaCppModel, LlamaCppModel]


async def a_worker() -> LlamaCppModel:
    spec = LoadSpec(a_model(name="smollm2:135m", engine="llama_cpp"), seed_model(), 1024, 2)
    model = await Engines(EngineConfig(threads=1))["llama_cpp"].load(spec)
    assert isinstance(model, LlamaCppModel)
    return model


@pytest.fixture(scope="module")
async def workers() -> AsyncIterator[Workers]:
    first, second = await a_worker(), await a_worker()
    yield first, second
    await first.close()
    await second.close()


@pytest.fixture(scope="module")
async def scripted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LoadedEngine]:
    path = write_scripted_gguf(tmp_path_factory.mktemp("gguf") / "scripted.gguf", SCRIPT, template=JINJA)
    model = await load(Engines(EngineConfig(threads=1)), "llama_cpp", "scripted", path)
    yield model
    await model.close()


@pytest.fixture
def sent_bodies(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the second process is asked for."""
    bodies: list[dict[str, Any]] = []
    process = workers[1]._process
    stream = process.stream

    def spy(path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        bodies.append(body)
        return stream(path, body)

    monkeypatch.setattr(process, "stream", spy)
    return bodies


def told(answer: Answer) -> tuple[object, ...]:
    """All that a client sees of it."""
    tokens = [entry.token for entry in answer.logprobs]
    return answer.thinking, answer.text, answer.calls, tokens, answer.finish.done_reason


async def survives_every_cut(workers: Workers, task: InferenceTask, step: int = 1) -> Answer:
    """The undisturbed answer, after it was taken over at each ``step``-th piece."""
    first, second = workers
    whole = await ask(first, task)
    for cut in range(1, len(whole.pieces), step):
        assert told(await take_over(second, job(task), whole.pieces[:cut])) == told(whole), f"cut after {cut}"
    return whole


@pytest.mark.real_model
class TestWhatIsContinued:
    async def test_token_ids_are_continued_and_not_their_text(
        self, workers: Workers, sent_bodies: list[dict[str, Any]]
    ) -> None:
        """The ids of two halves of a word, which nobody gets who tokenizes the word."""
        _, second = workers
        halves = (await ids_of(second, "sea"), await ids_of(second, "shore"))
        unusual = (*halves[0], *halves[1])
        assert tuple(await ids_of(second, "seashore")) != unusual
        finish = (await ask(second, generate("Tell me of the", num_predict=12), resume=unusual)).finish
        assert tuple(sent_bodies[-1]["prompt"][-len(unusual) :]) == unusual
        assert finish.context[finish.prompt_tokens :][: len(unusual)] == unusual

    async def test_max_tokens_counts_those_before_the_seam(self, workers: Workers) -> None:
        first, second = workers
        whole = await ask(first, chat(TALE, num_predict=16))
        for cut in range(1, 16):
            rest = await ask(second, chat(TALE, num_predict=16), resume=whole.token_ids[:cut])
            assert (rest.finish.completion_tokens, rest.finish.done_reason) == (16 - cut, "length")
            assert rest.finish.prompt_tokens == whole.finish.prompt_tokens, "what is read again is not billed again"
        nothing = await ask(second, chat(TALE, num_predict=16), resume=whole.token_ids)
        assert (nothing.text, nothing.finish.done_reason) == ("", "length")

    async def test_a_stop_string_across_the_seam(self, workers: Workers) -> None:
        """Of several tokens, found; and one that only begins so, and is text after all."""
        text = (await ask(workers[0], chat(TALE, num_predict=24))).text
        stop = text[30:45]
        assert text.count(stop) == 1
        stopped = await survives_every_cut(workers, chat(TALE, num_predict=24, stop=(stop,)))
        assert (stopped.text, stopped.finish.done_reason) == (text[:30], "stop")
        almost = await survives_every_cut(workers, chat(TALE, num_predict=24, stop=(stop[:-1] + "#",)))
        assert (almost.text, almost.finish.done_reason) == (text, "length")

    async def test_characters_of_several_tokens_across_the_seam(self, workers: Workers) -> None:
        whole = await survives_every_cut(workers, generate(TEXTS, num_predict=32, raw=True))
        assert "日本語" in whole.text
        assert len(whole.token_ids) > len(whole.pieces), "it could have been cut inside a character"
        assert not any("\ufffd" in piece.text for piece in whole.pieces)

    @pytest.mark.parametrize(
        "penalty",
        [
            {"repeat_penalty": 1.3},
            {"presence_penalty": 1.5},
            {"frequency_penalty": 1.0},
            {"repeat_penalty": 1.2, "repeat_last_n": -1},
            {"repeat_penalty": 1.2, "repeat_last_n": 8},
        ],
        ids=str,
    )
    async def test_penalties_count_tokens_before_the_seam(self, workers: Workers, penalty: dict[str, float]) -> None:
        first, _ = workers
        whole = await survives_every_cut(workers, chat(TALE, num_predict=24, **penalty), step=7)
        assert whole.text != (await ask(first, chat(TALE, num_predict=24))).text

    async def test_logprobs_before_the_seam_come_from_the_log(self, workers: Workers) -> None:
        task = chat(TALE, num_predict=12, logprobs=True, top_logprobs=3)
        whole = await survives_every_cut(workers, task)
        rest = await ask(workers[1], task, resume=whole.token_ids[:5])
        assert [entry.token for entry in rest.logprobs] == [entry.token for entry in whole.logprobs[5:]]
        for again, before in zip(rest.logprobs, whole.logprobs[5:], strict=True):
            assert again.logprob == pytest.approx(before.logprob, abs=0.1)

    async def test_random_numbers_are_not_drawn_twice(
        self, workers: Workers, sent_bodies: list[dict[str, Any]]
    ) -> None:
        """A continuation draws numbers of its own, the same whenever it begins there."""
        _, second = workers
        task = chat(TALE, num_predict=24, temperature=1.0, seed=5)
        ids = (await ask(second, task)).token_ids
        rests = [(await ask(second, task, resume=ids[:cut])).token_ids for cut in (8, 8, 9)]
        assert rests[0] == rests[1]
        assert [body["seed"] for body in sent_bodies] == [5, seed_at(5, 8), seed_at(5, 8), seed_at(5, 9)]
        assert len({body["seed"] for body in sent_bodies}) == 3


async def ids_of(model: LlamaCppModel, text: str) -> list[int]:
    ids: list[int] = (await model._process.ask("/tokenize", {"content": text, "add_special": False}))["tokens"]
    return ids


@pytest.mark.real_model
class TestWhatIsReplayed:
    @pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 7}], ids=["greedy", "seeded"])
    async def test_a_schema_is_followed_across_the_seam(self, workers: Workers, sampling: dict[str, float]) -> None:
        """The grammar and the random numbers begin anew, and come to where the answer was cut."""
        first, second = workers
        task = chat("Describe a book as JSON.", num_predict=40, format=SCHEMA, **sampling)
        assert not second.can_resume(job(task))
        whole, again = await ask(first, task), await ask(second, task)
        for cut in range(1, len(whole.pieces)):
            assert told(replayed(again, whole.pieces[:cut])) == told(whole)

    async def test_an_answer_that_comes_out_otherwise_is_refused(self, workers: Workers) -> None:
        first, second = workers
        whole = await ask(first, chat(TALE, format=SCHEMA, temperature=0.8, seed=1))
        with pytest.raises(ReplayDiverged):
            await take_over(second, job(chat(TALE, format=SCHEMA, temperature=0.8, seed=2)), whole.pieces)

    async def test_embeddings_are_made_again(self, workers: Workers) -> None:
        first, second = workers
        [before] = (await first.embed(embedding("the sea"))).vectors
        [after] = (await second.embed(embedding("the sea"))).vectors
        assert after == pytest.approx(before, abs=1e-6)


class TestParsers:
    """Of a model whose answer is known: it thinks, says something and calls a tool."""

    @BOTH
    @pytest.mark.parametrize("logprobs", [False, True])
    async def test_thinking_and_calls_across_the_seam(
        self, scripted: LoadedEngine, model: ModelRef, logprobs: bool
    ) -> None:
        task = chat(tools=[WEATHER], num_predict=40, logprobs=logprobs)
        whole, again = await ask(scripted, task, model), await ask(scripted, task, model)
        assert whole.thinking
        assert whole.calls
        for cut in range(1, len(whole.pieces)):
            assert told(replayed(again, whole.pieces[:cut])) == told(whole)

    @BOTH
    async def test_what_was_sent_may_be_cut_otherwise_the_second_time(
        self, scripted: LoadedEngine, model: ModelRef
    ) -> None:
        """Frames hold what a flush found: thinking, text and calls of many pieces, or half of one."""
        whole = await ask(scripted, chat(tools=[WEATHER], num_predict=40), model)
        for length in range(1, len(whole.thinking)):
            assert told(replayed(whole, [Piece(thinking=whole.thinking[:length])])) == told(whole)
        for length in range(1, len(whole.text)):
            sent = [Piece(thinking=whole.thinking), Piece(whole.text[:length])]
            assert told(replayed(whole, sent)) == told(whole)

    @BOTH
    async def test_a_replayed_answer_costs_what_it_costs_once(self, scripted: LoadedEngine, model: ModelRef) -> None:
        asked = Job("r", chat(num_predict=9), model)
        whole = await ask(scripted, chat(num_predict=9), model)
        again = await take_over(scripted, asked, whole.pieces[:2])
        assert again.finish.completion_tokens == whole.finish.completion_tokens == 9
        assert again.finish.prompt_tokens == whole.finish.prompt_tokens
