from typing import Any

import pytest

from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.tokens import StreamEnd
from services.worker.engines.base import LoadedEngine, LoadSpec
from services.worker.engines.echo import EchoEngine
from services.worker.whole_answers import whole_answer
from tests.fixtures.builders import a_model


@pytest.fixture
async def echo() -> LoadedEngine:
    return await EchoEngine().load(LoadSpec(a_model(name="echo"), None, 100, 2))


async def answer(echo: LoadedEngine, **task: Any) -> StreamEnd:
    end = await whole_answer(echo, InferenceTask(**task), 7)
    assert (end.usage.load_ns, end.usage.completion_tokens, end.error) == (7, 0, None)
    return end


async def test_what_the_model_reads_is_billed(echo: LoadedEngine) -> None:
    ranks = await answer(echo, kind="rerank", prompt="a b", inputs=("b", "c d"))
    assert (ranks.scores, ranks.usage.prompt_tokens) == ([0.5, 0.0], 5)
    embedded = await answer(echo, kind="embed", inputs=("a b", "c"))
    assert (len(embedded.embeddings), embedded.usage.prompt_tokens) == (2, 3)


async def test_tokens_are_free(echo: LoadedEngine) -> None:
    read = await answer(echo, kind="tokenize", prompt="w1 w2")
    assert (read.token_ids, read.usage.prompt_tokens) == ([1, 2], 0)
    written = await answer(echo, kind="detokenize", context=(1, 2))
    assert (written.rendered, written.usage.prompt_tokens) == ("w1 w2", 0)
    assert (await answer(echo, kind="load")).done_reason == "load"
