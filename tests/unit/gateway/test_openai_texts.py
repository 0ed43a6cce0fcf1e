"""/v1/completions, /v1/embeddings and /v1/models, whole."""

import base64
from typing import Any

import pytest

from libs.common.contracts.inference import InferenceTask, ModelDetails
from libs.common.contracts.registry import DescribeModel, ListModels, ModelDescription, ModelSummary, ResolveModel
from libs.common.contracts.tokens import Logprob, StreamEnd, TopLogprob, Usage, pack_vector
from libs.common.errors import InvalidRequest, ModelNotFound, UnsupportedByModel
from services.gateway.api.openai.completions import completions
from services.gateway.api.openai.embeddings import embeddings
from tests.fixtures.gateway import END, ScriptedStream, a_gateway
from tests.fixtures.handlers import asked, task_of, tasks_of
from tests.fixtures.openai_bodies import HELLO


async def test_a_completion() -> None:
    async with a_gateway() as gateway:
        answer = await asked(
            gateway, completions, {"model": "tools", "prompt": "once", "suffix": "end", "max_tokens": 4}
        )
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"] == [{"index": 0, "text": "Hello", "finish_reason": "stop"}]
    assert (gateway.task.prompt, gateway.task.suffix, gateway.task.options.num_predict) == ("once", "end", 4)


async def test_choices_of_several_prompts() -> None:
    body = {"model": "m", "prompt": ["a", "b"], "n": 2, "best_of": 2, "echo": True, "seed": 4, "logit_bias": {"1": 2}}
    async with a_gateway() as gateway:
        gateway.play = lambda task: ScriptedStream().say(f"<{task.prompt}>", end=END)
        answer = await asked(gateway, completions, body)
    assert [(each["index"], each["text"]) for each in answer["choices"]] == [
        *enumerate(["a<a>", "a<a>", "b<b>", "b<b>"])
    ]
    assert answer["usage"] == {"prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22}
    options = [task.options for _, _, task in gateway.started]
    assert [(each.seed, each.logit_bias) for each in options] == [(seed, ((1, 2.0),)) for seed in (4, 5, 4, 5)]


@pytest.mark.parametrize(("prompt", "ids"), [([1, 2], [(1, 2)]), ([[1], [2, 3]], [(1,), (2, 3)])])
async def test_token_ids_are_taken_as_they_are(prompt: Any, ids: Any) -> None:
    tasks = await tasks_of(completions, {"model": "m", "prompt": prompt})
    assert [(task.raw, task.prompt, task.context) for task in tasks] == [(True, "", each) for each in ids]


async def test_logprobs_in_the_old_shape() -> None:
    def play(_task: InferenceTask) -> ScriptedStream:
        entries = [Logprob(text, -0.5, b"", [TopLogprob("x", -1.0)]) for text in ("ab", "c")]
        return ScriptedStream().say("ab", logprobs=entries[:1]).say("c", logprobs=entries[1:], end=END)

    async with a_gateway() as gateway:
        gateway.play = play
        answer = await asked(gateway, completions, {"model": "m", "prompt": "p", "logprobs": 1})
    assert (gateway.task.logprobs, gateway.task.top_logprobs) == (True, 1)
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"ab": -0.5, "x": -1.0}, {"c": -0.5, "x": -1.0}],
        "text_offset": [0, 2],
    }
    assert (await task_of(completions, {"model": "m", "prompt": "p", "logprobs": 0})).logprobs


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_are_not_told_nor_their_tokens(stream: bool) -> None:
    def play(_task: InferenceTask) -> ScriptedStream:
        thought, said = [Logprob("hm", -0.5)], [Logprob("so", -0.5)]
        return ScriptedStream().say(thinking="hm", logprobs=thought).say("so", logprobs=said, end=END)

    async with a_gateway() as gateway, gateway.client() as http:
        gateway.play = play
        body = {"model": "thinker", "prompt": "p", "logprobs": 0, "stream": stream}
        answer = (await http.post("/v1/completions", json=body)).text
    assert '"tokens":["so"]' in answer
    assert "hm" not in answer


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": ""}, "prompt is required"),
        ({"prompt": None}, "prompt is required"),
        ({"prompt": []}, "prompt is required"),
        ({"prompt": ["a", ""]}, "prompt is required"),
        ({"prompt": 7}, "invalid prompt"),
        ({"prompt": ["a", [1]]}, "invalid prompt"),
        ({"prompt": [[]]}, "invalid prompt"),
        ({"prompt": [-1]}, "invalid prompt"),
        ({"prompt": [True]}, "invalid prompt"),
        ({"prompt": [2**31]}, "invalid prompt"),
        ({"prompt": ["a"] * 65}, "64 items"),
        ({"prompt": [[1]] * 65}, "64 items"),
        ({"prompt": [1] * (2**20 + 1)}, "1048576 items"),
        ({"prompt": ["a"] * 33, "n": 2}, "'n' must be between 1 and 1"),
        ({"best_of": 2}, "'best_of'"),
        ({"echo": True, "logprobs": 0}, "'echo'"),
        ({"echo": True, "prompt": [1]}, "'echo'"),
        ({"suffix": "s", "prompt": [1]}, "'suffix'"),
        ({"logprobs": 6}, "logprobs must be"),
        ({"stream_options": {}}, "'stream_options'"),
        ({"max_tokens": 0}, "'max_tokens'"),
        ({"model": None}, "model is required"),
        ({"user": []}, "'user'"),
    ],
)
async def test_completions_that_are_refused(changed: dict[str, Any], message: str) -> None:
    async with a_gateway() as gateway:
        with pytest.raises(InvalidRequest, match=message):
            await asked(gateway, completions, {"model": "m", "prompt": "p", **changed})
        assert gateway.started == []


async def test_what_the_model_cannot_do() -> None:
    async with a_gateway() as gateway:
        with pytest.raises(UnsupportedByModel, match="insert"):
            await asked(gateway, completions, {"model": "m", "prompt": "p", "suffix": "s"})


def play_vectors(task: InferenceTask) -> ScriptedStream:
    if task.kind == "detokenize":
        return ScriptedStream().say(end=StreamEnd(rendered=f"text of {task.context}"))
    vectors = [pack_vector([1.0, 0.5])] * len(task.inputs)
    return ScriptedStream().say(end=StreamEnd(embeddings=vectors, usage=Usage(prompt_tokens=4)))


async def test_embeddings() -> None:
    async with a_gateway() as gateway:
        gateway.play = play_vectors
        answer = await asked(gateway, embeddings, {"model": "embedder", "input": ["a", "b"], "dimensions": 2})
        assert answer == {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": [1.0, 0.5]} for index in (0, 1)],
            "model": "embedder",
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        }
        assert (gateway.task.inputs, gateway.task.dimensions) == (("a", "b"), 2)
        packed = await asked(gateway, embeddings, {"model": "embedder", "input": "a", "encoding_format": "base64"})
        assert base64.b64decode(packed["data"][0]["embedding"]) == b"\0\0\x80?\0\0\0?"


@pytest.mark.parametrize(("given", "arrays"), [([1, 2], [(1, 2)]), ([[1], [2, 3]], [(1,), (2, 3)])])
async def test_embeddings_of_token_ids(given: Any, arrays: list[tuple[int, ...]]) -> None:
    async with a_gateway() as gateway:
        gateway.play = play_vectors
        answer = await asked(gateway, embeddings, {"model": "embedder", "input": given})
        assert gateway.task.inputs == tuple(f"text of {ids}" for ids in arrays)
        assert len(answer["data"]) == len(arrays)


@pytest.mark.parametrize(
    "changed",
    [
        {"input": None},
        {"input": []},
        {"input": [1.5]},
        {"input": [["a"]]},
        {"input": ["a"] * 10_001},
        {"encoding_format": "hex"},
        {"dimensions": 0},
        {"stream": True},
    ],
)
async def test_embeddings_that_are_refused(changed: dict[str, Any]) -> None:
    async with a_gateway() as gateway:
        with pytest.raises(InvalidRequest):
            await asked(gateway, embeddings, {"model": "embedder", "input": "a", **changed})
        assert gateway.started == []


def described(query: DescribeModel) -> ModelDescription:
    if query.name == "nothing":
        raise ModelNotFound
    return ModelDescription(
        name=query.name, modified_at=1700000000.5, details=ModelDetails(), model_info={}, capabilities=()
    )


async def test_models() -> None:
    names = ["m:latest", "team/small:7b", "registry.example/team/large:7b"]
    summaries = tuple(
        ModelSummary(name=name, modified_at=1700000000.5, size=1, digest="a" * 64, details=ModelDetails())
        for name in names
    )
    async with a_gateway() as gateway, gateway.client() as http:
        gateway.bus.answers |= {ListModels: lambda _: summaries, DescribeModel: described}
        listed = (await http.get("/v1/models")).json()
        assert listed == {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": 1700000000, "owned_by": owner}
                for name, owner in zip(names, ("library", "team", "team"), strict=True)
            ],
        }
        assert (await http.get("/v1/models/")).json() == listed
        for path in ("team/small:7b", "team%2Fsmall%3A7b", "team/small:7b/"):
            assert (await http.get(f"/v1/models/{path}")).json() == listed["data"][1]
        missing = await http.get("/v1/models/nothing")
        assert missing.status_code == 404
        assert missing.json()["error"]["message"] == "model 'nothing:latest' not found"


async def test_nobody_is_asked_for_what_is_known() -> None:
    bodies: dict[str, dict[str, Any]] = {
        "chat/completions": {"messages": HELLO},
        "completions": {"prompt": "p"},
        "embeddings": {"input": "a"},
    }
    async with a_gateway() as gateway, gateway.client() as http:
        for path, body in bodies.items():
            for stream in (False, path != "embeddings"):
                assert (await http.post(f"/v1/{path}", json={"model": "m", **body, "stream": stream})).is_success
        assert gateway.bus.asked == {ResolveModel: 1}
