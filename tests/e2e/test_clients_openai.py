"""OpenAI's own package, both of its clients: chats, completions, embeddings, models, files and batches."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import ChunkEvent
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tests.e2e.contract import EMBEDDER, MODEL, PIXEL
from tests.e2e.sdks import CALLED_WITH, WEATHER, Ask, a_key, ask_of, slots_are_free, words
from tests.fixtures.suite import Suite

pytestmark = pytest.mark.e2e

CHAT = "chat.completions.create"
HELLO: Any = [{"role": "user", "content": "hello you"}]


class Words(BaseModel):
    """What the echo engine makes of a format, if it may say two words."""

    w0: int
    w1: int


class Weather(BaseModel):
    city: str
    days: int


def a_tool(name: str) -> Any:
    return {"type": "function", "function": {"name": name, "description": name, "parameters": WEATHER}}


TOOLS = [a_tool("weather"), a_tool("time")]


@pytest.fixture(scope="module")
async def key(suite: Suite) -> str:
    return await a_key(suite)


@pytest.fixture
async def client(suite: Suite, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{suite.url}/v1", api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture(params=["sync", "async"])
async def ask(client: openai.AsyncOpenAI, request: pytest.FixtureRequest) -> AsyncIterator[Ask]:
    if request.param == "async":
        yield ask_of(client)
        return
    with openai.OpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0) as sync:
        yield ask_of(sync)


class TestChat:
    async def test_an_answer(self, ask: Ask) -> None:
        answer = await ask(CHAT, model="echo", messages=HELLO, max_completion_tokens=3, user="ada", metadata={"a": "b"})
        [choice] = answer.choices
        assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", words(3), "length")
        assert answer.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}) == {
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "total_tokens": 5,
        }
        assert answer._request_id

    async def test_a_stream(self, ask: Ask) -> None:
        usage = {"include_usage": True}
        *chunks, last = await ask(CHAT, model="echo", messages=HELLO, max_tokens=20, stream=True, stream_options=usage)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == words(20)
        assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", *[None] * (len(chunks) - 1)]
        assert chunks[-1].choices[0].finish_reason == "length"
        assert (last.choices, last.usage.total_tokens) == ([], 22)
        assert len({(chunk.id, chunk.created) for chunk in (*chunks, last)}) == 1

    async def test_choices(self, ask: Ask) -> None:
        answer = await ask(CHAT, model="echo", messages=HELLO, n=3, seed=1, max_tokens=4)
        assert [(each.index, each.message.content) for each in answer.choices] == [(i, words(4)) for i in range(3)]
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 12)
        chunks = await ask(CHAT, model="echo", messages=HELLO, n=3, max_tokens=4, stream=True)
        texts = ["", "", ""]
        for choice in (choice for chunk in chunks for choice in chunk.choices):
            texts[choice.index] += choice.delta.content or ""
        assert texts == [words(4)] * 3

    async def test_what_shapes_an_answer(self, ask: Ask) -> None:
        stopped = await ask(CHAT, model="echo", messages=HELLO, stop=["w9", " w3"])
        assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == (words(3), "stop")
        biased = await ask(CHAT, model="echo", messages=HELLO, logit_bias={"1": -100}, max_tokens=2)
        assert biased.choices[0].message.content == "w0 w2"
        told = await ask(CHAT, model="echo", messages=HELLO, logprobs=True, top_logprobs=2, max_tokens=2)
        first, _ = told.choices[0].logprobs.content
        assert (first.token, first.logprob, bytes(first.bytes)) == ("w0", -0.125, b"w0")
        assert [other.token for other in first.top_logprobs] == ["w0", "w0'"]

    async def test_reasoning(self, ask: Ask) -> None:
        message = (await ask(CHAT, model="echo-think", messages=HELLO, reasoning_effort="low")).choices[0].message
        assert message.reasoning.startswith("t0 t1")
        message = (await ask(CHAT, model="echo-think", messages=HELLO, reasoning_effort="none")).choices[0].message
        assert not hasattr(message, "reasoning")

    @pytest.mark.real_model
    async def test_a_real_model_fills_a_form(self, client: openai.AsyncOpenAI) -> None:
        class Capital(BaseModel):
            name: str

        messages: Any = [{"role": "user", "content": "What is the capital of France?"}]
        answer = await client.chat.completions.parse(
            model=MODEL, messages=messages, temperature=0, max_tokens=60, response_format=Capital
        )
        assert isinstance(answer.choices[0].message.parsed, Capital)


class TestTools:
    async def test_each_choice_of_tools(self, ask: Ask) -> None:
        async def called(**fields: Any) -> list[str]:
            answer = await ask(CHAT, model="echo-tools", messages=HELLO, tools=TOOLS, **fields)
            calls = answer.choices[0].message.tool_calls or []
            assert all(json.loads(call.function.arguments) == CALLED_WITH for call in calls)
            assert answer.choices[0].finish_reason == ("tool_calls" if calls else "stop")
            return [call.function.name for call in calls]

        named = {"type": "function", "function": {"name": "time"}}
        assert await called() == await called(tool_choice="auto") == ["weather", "time"]
        assert await called(tool_choice="required", parallel_tool_calls=False) == ["weather"]
        assert await called(tool_choice=named) == ["time"]
        assert await called(tool_choice="none") == []

    async def test_results_go_back(self, ask: Ask) -> None:
        message = (await ask(CHAT, model="echo-tools", messages=HELLO, tools=TOOLS)).choices[0].message
        results = [{"role": "tool", "tool_call_id": call.id, "content": "snow"} for call in message.tool_calls]
        fields = {"messages": [*HELLO, message, *results], "tools": TOOLS, "max_tokens": 2}
        answer = await ask(CHAT, model="echo-tools", **fields)
        assert answer.choices[0].message.content == words(2)
        required = await ask(CHAT, model="echo-tools", tool_choice="required", **fields)
        assert required.choices[0].message.tool_calls

    async def test_calls_are_streamed_and_parsed(self, client: openai.AsyncOpenAI) -> None:
        tools = [openai.pydantic_function_tool(Weather, name="weather"), TOOLS[1]]
        async with client.chat.completions.stream(model="echo-tools", messages=HELLO, tools=tools[:1]) as stream:
            kinds = {event.type async for event in stream}
            [call] = (await stream.get_final_completion()).choices[0].message.tool_calls or []
        assert "tool_calls.function.arguments.done" in kinds
        assert call.function.parsed_arguments == Weather.model_validate(CALLED_WITH)


class TestForms:
    async def test_a_form_is_filled(self, ask: Ask) -> None:
        answer = await ask("chat.completions.parse", model="echo", messages=HELLO, response_format=Words, max_tokens=2)
        assert answer.choices[0].message.parsed == Words(w0=0, w1=1)
        any_json = await ask(CHAT, model="echo", messages=HELLO, response_format={"type": "json_object"}, max_tokens=1)
        assert json.loads(any_json.choices[0].message.content) == {"w0": 0}

    async def test_one_that_is_cut_short_is_said_to_be(self, ask: Ask) -> None:
        with pytest.raises(openai.LengthFinishReasonError):
            await ask("chat.completions.parse", model="echo", messages=HELLO, max_tokens=3)

    async def test_a_form_is_filled_bit_by_bit(self, client: openai.AsyncOpenAI) -> None:
        form = {"response_format": Words, "max_tokens": 2}
        async with client.chat.completions.stream(model="echo", messages=HELLO, **form) as stream:  # type: ignore[arg-type]
            chunks = [event.chunk async for event in stream if isinstance(event, ChunkEvent)]
            final: Any = await stream.get_final_completion()
        assert len(chunks) >= 2
        assert final.choices[0].message.parsed == Words(w0=0, w1=1)


class TestResponses:
    """What is kept, and what is made in the background, has tests of its own."""

    async def test_an_answer(self, ask: Ask) -> None:
        fields = {"input": "hello you", "instructions": "be brief", "max_output_tokens": 3}
        response = await ask("responses.create", model="echo", **fields)
        assert (response.output_text, response.status) == (words(3), "incomplete")
        assert (response.usage.input_tokens, response.usage.output_tokens) == (4, 3)
        events = await ask("responses.create", model="echo", stream=True, **fields)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == words(3)
        assert events[-1].response.output_text == words(3)

    async def test_each_choice_of_tools(self, ask: Ask) -> None:
        async def called(**fields: Any) -> list[str]:
            tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
            response = await ask("responses.create", model="echo-tools", input="hello", tools=tools, **fields)
            return [item.name for item in response.output if item.type == "function_call"]

        assert await called() == await called(tool_choice="required") == ["weather", "time"]
        assert await called(tool_choice="required", parallel_tool_calls=False) == ["weather"]
        assert await called(tool_choice={"type": "function", "name": "time"}) == ["time"]
        assert await called(tool_choice="none") == []


async def test_completions(ask: Ask) -> None:
    fields = {"prompt": ["one", "two words"], "n": 2, "echo": True, "max_tokens": 2}
    answer = await ask("completions.create", model="echo", **fields)
    texts = {choice.index: choice.text for choice in answer.choices}
    assert texts == {0: f"one{words(2)}", 1: f"one{words(2)}", 2: f"two words{words(2)}", 3: f"two words{words(2)}"}
    chunks = await ask("completions.create", model="echo", stream=True, **fields)
    streamed = dict.fromkeys(texts, "")
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        streamed[choice.index] += choice.text
    assert streamed == texts
    ids = await ask("completions.create", model="echo", prompt=[5, 6], max_tokens=2, logprobs=1)
    assert ids.choices[0].logprobs.tokens == ["w0", " w1"]


class TestEmbeddings:
    async def test_texts(self, ask: Ask) -> None:
        """Without a format the client asks for base64, and decodes it."""
        vectors = {}
        for encoding in ({}, {"encoding_format": "float"}):
            answer = await ask("embeddings.create", model="echo", input=["a cat", "a dog"], dimensions=8, **encoding)
            assert [(each.index, len(each.embedding)) for each in answer.data] == [(0, 8), (1, 8)]
            vectors[len(encoding)] = [number for each in answer.data for number in each.embedding]
            assert answer.usage.prompt_tokens == 4
        assert vectors[0] == pytest.approx(vectors[1], abs=1e-6)

    async def test_tokens(self, ask: Ask) -> None:
        of_ids = await ask("embeddings.create", model="echo", input=[[5, 6]])
        of_text = await ask("embeddings.create", model="echo", input="w5 w6")
        assert of_ids.data[0].embedding == of_text.data[0].embedding

    @pytest.mark.real_model
    async def test_a_real_model(self, ask: Ask) -> None:
        answer = await ask("embeddings.create", model=EMBEDDER, input=["a cat", "a dog"])
        assert [len(each.embedding) for each in answer.data] == [384, 384]


async def test_models(ask: Ask) -> None:
    assert {MODEL, EMBEDDER} <= {model.id for model in (await ask("models.list")).data}
    model = await ask("models.retrieve", MODEL)
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "library")
    with pytest.raises(openai.NotFoundError, match="model 'team/x:latest' not found"):
        await ask("models.retrieve", "team/x")


async def test_a_batch(suite: Suite, ask: Ask) -> None:
    body = {"model": "echo", "messages": HELLO, "max_tokens": 2}
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = await ask("files.create", file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = await ask("batches.create", input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    async with asyncio.timeout(60):
        while batch.status != "completed":
            await asyncio.sleep(0.1)
            batch = await ask("batches.retrieve", batch.id)
    [answered] = (await ask("files.content", batch.output_file_id)).text.splitlines()
    completion = ChatCompletion.model_validate(json.loads(answered)["response"]["body"])
    assert completion.choices[0].message.content == words(2)
    assert (await ask("files.delete", file.id)).deleted


async def test_who_cannot_see_is_shown_nothing(ask: Ask) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    with pytest.raises(openai.BadRequestError, match="missing data required for image input"):
        await ask(CHAT, model="echo", messages=[{"role": "user", "content": [part]}])


async def test_a_stream_that_is_closed_frees_its_slot(suite: Suite, client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="echo-20", messages=HELLO, max_tokens=10_000, stream=True)
    assert (await anext(aiter(stream))).choices[0].delta.content == "w0"
    await stream.close()
    await slots_are_free(suite)


async def test_who_loses_patience_frees_its_slot(suite: Suite, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=1).chat.completions.create(model="echo-20", messages=HELLO, max_tokens=10_000)
    await slots_are_free(suite)
