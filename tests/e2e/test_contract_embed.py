"""POST /api/embed and /api/embeddings, on all-MiniLM-L6-v2."""

import math
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.e2e.contract import EMBEDDER, JSON, MODEL, Case, check, refused, table
from tests.fixtures.minilm import CONTEXT_LENGTH, EMBEDDING_LENGTH

pytestmark = [pytest.mark.e2e, pytest.mark.real_model]

EMBED, LEGACY = "POST /api/embed", "POST /api/embeddings"

LONG = "cat " * 600
TOO_LONG = "the input length exceeds the context length"
UNKNOWN = 'model "no" not found, try pulling it first'
ALIAS = {"model": "all-minilm"}
NO_GENERATE, NO_CHAT = '"all-minilm" does not support generate', '"all-minilm" does not support chat'

SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
PUBLISHED = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}
"""Their similarities in the documentation of Sentence Transformers."""


async def embed(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await http.post("/api/embed", json={"model": EMBEDDER, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == JSON
    answer: dict[str, Any] = response.json()
    return answer


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


class TestEmbed:
    async def test_similarities_are_those_that_were_published(self, http: httpx.AsyncClient) -> None:
        vectors = (await embed(http, input=SENTENCES))["embeddings"]
        for (one, other), similarity in PUBLISHED.items():
            assert dot(vectors[one], vectors[other]) == pytest.approx(similarity, abs=1e-3)

    async def test_vectors_have_length_one(self, http: httpx.AsyncClient) -> None:
        answer = await embed(http, input=SENTENCES)
        assert {len(vector) for vector in answer["embeddings"]} == {EMBEDDING_LENGTH}
        assert [dot(vector, vector) for vector in answer["embeddings"]] == pytest.approx([1] * 3, abs=1e-5)

    async def test_fields(self, http: httpx.AsyncClient) -> None:
        answer = await embed(http, input="a cat")
        assert set(answer) == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
        assert answer["model"] == EMBEDDER
        assert answer["prompt_eval_count"] == len(["[CLS]", "a", "cat", "[SEP]"])
        assert min(answer["total_duration"], answer["load_duration"]) > 0

    async def test_tokens_are_summed_over_the_batch(self, http: httpx.AsyncClient) -> None:
        assert (await embed(http, input=["a cat", "a dog"]))["prompt_eval_count"] == 8

    async def test_text_and_list_of_it_are_the_same(self, http: httpx.AsyncClient) -> None:
        one, other = await embed(http, input="a cat"), await embed(http, input=["a cat"])
        assert dot(one["embeddings"][0], other["embeddings"][0]) == pytest.approx(1, abs=1e-5)

    async def test_dimensions_cut_and_normalise_again(self, http: httpx.AsyncClient) -> None:
        [whole] = (await embed(http, input="a cat"))["embeddings"]
        [cut] = (await embed(http, input="a cat", dimensions=8))["embeddings"]
        length = math.sqrt(dot(whole[:8], whole[:8]))
        assert cut == pytest.approx([value / length for value in whole[:8]], abs=1e-4)
        assert len((await embed(http, input="a cat", dimensions=10**6))["embeddings"][0]) == EMBEDDING_LENGTH

    @pytest.mark.parametrize("nothing", [None, "", []])
    async def test_nothing_to_embed_loads(self, http: httpx.AsyncClient, nothing: object) -> None:
        assert await embed(http, input=nothing) == {"model": EMBEDDER, "embeddings": []}

    async def test_what_is_too_long_is_cut(self, http: httpx.AsyncClient) -> None:
        assert (await embed(http, input="cat " * 3 * CONTEXT_LENGTH))["prompt_eval_count"] == CONTEXT_LENGTH

    @table(
        refused("too long and not cut", EMBED, {"input": LONG, "truncate": False}, 400, TOO_LONG),
        refused("one bad item fails the batch", EMBED, {"input": ["a", LONG], "truncate": False}, 400, TOO_LONG),
        refused("a number", EMBED, {"input": 1}, 400, "invalid input type"),
        refused("a list with a number", EMBED, {"input": ["a", 1]}, 400, "invalid input type"),
        refused("unknown model", EMBED, {"model": "no", "input": "a"}, 404, UNKNOWN),
        refused("no model", EMBED, {"model": "", "input": "a"}, 404, "model '' not found"),
        refused("malformed name", EMBED, {"model": "a/b/c/d/e", "input": "a"}, 400, "invalid model name"),
    )
    async def test_refusals(self, http: httpx.AsyncClient, case: Case) -> None:
        await check(http, replace(case, body={"model": EMBEDDER, **case.body}))


class TestLegacy:
    async def test_one_prompt_one_vector(self, http: httpx.AsyncClient) -> None:
        [vector] = (await embed(http, input="a cat"))["embeddings"]
        response = await check(http, Case("", LEGACY, {"model": EMBEDDER, "prompt": "a cat"}, 200, {"embedding": list}))
        legacy = response.json()["embedding"]
        length = math.sqrt(dot(legacy, legacy))
        assert dot(legacy, vector) / length == pytest.approx(1, abs=1e-4)
        assert length != pytest.approx(1, abs=1e-2), "it is as the model made it"

    @table(
        Case("no prompt", LEGACY, {"model": EMBEDDER, "prompt": ""}, 200, {"embedding": []}),
        refused("unknown model", LEGACY, {"model": "no", "prompt": "a"}, 404, UNKNOWN),
        refused("no model", LEGACY, {"prompt": "a"}, 400, "model is required"),
    )
    async def test_rules(self, http: httpx.AsyncClient, case: Case) -> None:
        await check(http, case)


class TestAModelThatOnlyEmbeds:
    async def test_its_capabilities(self, http: httpx.AsyncClient) -> None:
        shown = {
            "capabilities": ["embedding"],
            "model_info": {"general.architecture": "bert", "bert.context_length": 512},
        }
        await check(http, Case("", "POST /api/show", {"model": EMBEDDER}, 200, shown))

    @table(
        refused("generate", "POST /api/generate", ALIAS, 400, NO_GENERATE),
        refused("generate with a prompt", "POST /api/generate", {**ALIAS, "prompt": "a"}, 400, NO_GENERATE),
        refused("chat", "POST /api/chat", {**ALIAS, "messages": [{"role": "user", "content": "a"}]}, 400, NO_CHAT),
    )
    async def test_it_does_not_generate(self, http: httpx.AsyncClient, case: Case) -> None:
        await check(http, case)

    async def test_a_model_that_generates_embeds_too(self, http: httpx.AsyncClient) -> None:
        [vector] = (await embed(http, model=MODEL, input="a cat"))["embeddings"]
        assert dot(vector, vector) == pytest.approx(1, abs=1e-3)
