"""Anthropic's own package, both of its clients, through messages, and the length of their prompts."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic.lib.streaming import TextEvent
from pydantic import BaseModel

from tests.e2e.contract import MODEL, PIXEL
from tests.e2e.sdks import CALLED_WITH, WEATHER, Ask, ask_of, slots_are_free, words
from tests.fixtures.suite import Suite

pytestmark = pytest.mark.e2e

CREATE = "messages.create"
SAMPLING = {"temperature": 0, "top_k": 3}
"""The client knows no words for it any more; the models here are made to be told."""

HELLO: Any = [{"role": "user", "content": "hello you"}]


class Words(BaseModel):
    """What the echo engine makes of a format, if it may say two words."""

    w0: int
    w1: int


def a_tool(name: str) -> Any:
    return {"name": name, "description": name, "input_schema": WEATHER}


TOOLS = [a_tool("weather"), a_tool("time")]


@pytest.fixture
async def client(suite: Suite) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=suite.url, api_key="ollama", max_retries=0) as client:
        yield client


@pytest.fixture(params=["sync", "async"])
async def ask(client: anthropic.AsyncAnthropic, request: pytest.FixtureRequest) -> AsyncIterator[Ask]:
    if request.param == "async":
        yield ask_of(client)
        return
    with anthropic.Anthropic(base_url=client.base_url, api_key=client.api_key, max_retries=0) as sync:
        yield ask_of(sync)


class TestMessages:
    async def test_an_answer(self, ask: Ask) -> None:
        fields = {"system": "be brief", "metadata": {"user_id": "ada"}, "extra_body": SAMPLING}
        message = await ask(CREATE, model="echo", messages=HELLO, max_tokens=3, **fields)
        [block] = message.content
        assert (block.type, block.text, message.stop_reason) == ("text", words(3), "max_tokens")
        assert (message.usage.input_tokens, message.usage.output_tokens) == (4, 3)
        assert (message.role, message.model) == ("assistant", "echo")
        assert message._request_id.startswith("req_")

    async def test_a_stream(self, ask: Ask) -> None:
        events = await ask(CREATE, model="echo", messages=HELLO, max_tokens=20, stream=True)
        first, opened, *grown, closed, ended, last = events
        assert (first.type, first.message.content, first.message.stop_reason) == ("message_start", [], None)
        assert (opened.type, opened.content_block.text) == ("content_block_start", "")
        assert "".join(event.delta.text for event in grown) == words(20)
        assert (closed.type, last.type) == ("content_block_stop", "message_stop")
        assert (ended.delta.stop_reason, ended.usage.output_tokens) == ("max_tokens", 20)

    async def test_a_stop_sequence_is_told(self, ask: Ask) -> None:
        fields = {"messages": HELLO, "max_tokens": 9, "stop_sequences": ["never", " w3"]}
        message = await ask(CREATE, model="echo", **fields)
        assert (message.content[0].text, message.stop_reason, message.stop_sequence) == (
            words(3),
            "stop_sequence",
            " w3",
        )
        *_, ended, _stop = await ask(CREATE, model="echo", stream=True, **fields)
        assert (ended.delta.stop_reason, ended.delta.stop_sequence) == ("stop_sequence", " w3")

    async def test_thinking(self, ask: Ask) -> None:
        fields = {"messages": HELLO, "max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}}
        message = await ask(CREATE, model="echo-think", **{**fields, "max_tokens": 1025})
        thought, said = message.content
        assert (thought.type, thought.thinking) == ("thinking", "t0 t1 t2 t3 t4 t5 t6 t7")
        assert thought.signature
        assert said.text.startswith("w0 w1")
        history = [*HELLO, {"role": "assistant", "content": message.content}, *HELLO]
        again = await ask(CREATE, model="echo-think", messages=history, max_tokens=2)
        assert again.content[0].text == words(2)
        relaxed = await ask(CREATE, model="echo", **{**fields, "max_tokens": 1025})
        assert [block.type for block in relaxed.content] == ["text"]

    async def test_the_prompt_is_counted(self, ask: Ask) -> None:
        fields = {"messages": HELLO, "system": "be brief", "tools": TOOLS}
        assert (await ask("messages.count_tokens", model="echo-tools", **fields)).input_tokens == 4

    async def test_models(self, ask: Ask) -> None:
        models = {model.id: model.type for model in (await ask("models.list")).data}
        assert models[MODEL] == "model"
        assert (await ask("models.retrieve", MODEL)).id == MODEL

    async def test_who_cannot_see_is_shown_nothing(self, ask: Ask) -> None:
        source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
        content = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
        with pytest.raises(anthropic.BadRequestError, match="missing data required for image input"):
            await ask(CREATE, model="echo", messages=[{"role": "user", "content": content}], max_tokens=1)

    @pytest.mark.real_model
    async def test_a_real_model(self, client: anthropic.AsyncAnthropic) -> None:
        messages: Any = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
        message = await client.messages.create(model=MODEL, messages=messages, max_tokens=40, extra_body=SAMPLING)
        assert "Paris" in "".join(block.text for block in message.content if block.type == "text")


class TestTools:
    async def test_each_choice_of_tools(self, ask: Ask) -> None:
        async def called(**choice: Any) -> list[str]:
            fields = {"messages": HELLO, "max_tokens": 64, "tools": TOOLS}
            message = await ask(CREATE, model="echo-tools", **fields, **({"tool_choice": choice} if choice else {}))
            calls = [block for block in message.content if block.type == "tool_use"]
            assert all(call.input == CALLED_WITH for call in calls)
            assert message.stop_reason == ("tool_use" if calls else "max_tokens")
            return [call.name for call in calls]

        assert await called() == await called(type="auto") == ["weather", "time"]
        assert await called(type="any", disable_parallel_tool_use=True) == ["weather"]
        assert await called(type="tool", name="time") == ["time"]
        assert await called(type="none") == []

    async def test_results_go_back(self, ask: Ask) -> None:
        message = await ask(CREATE, model="echo-tools", messages=HELLO, max_tokens=64, tools=TOOLS)
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": "snow", "is_error": False}
            for call in message.content
        ]
        history = [*HELLO, {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
        answer = await ask(CREATE, model="echo-tools", messages=history, max_tokens=2, tools=TOOLS)
        assert [block.text for block in answer.content] == [words(2)]

    async def test_tools_are_run_by_the_client(self, client: anthropic.AsyncAnthropic) -> None:
        ran: list[tuple[str, int]] = []

        @anthropic.beta_async_tool
        async def weather(city: str, days: int) -> str:
            """How it will be."""
            ran.append((city, days))
            return "snow"

        runner = client.beta.messages.tool_runner(model="echo-tools", messages=HELLO, max_tokens=2, tools=[weather])
        message = await runner.until_done()
        assert [block.text for block in message.content if block.type == "text"] == [words(2)]
        assert ran == [("a0", 1)]

    async def test_all_kinds_of_blocks_are_streamed(self, client: anthropic.AsyncAnthropic) -> None:
        thinking: Any = {"type": "adaptive"}
        async with client.messages.stream(
            model="echo-think-tools", messages=HELLO, max_tokens=64, tools=TOOLS, thinking=thinking
        ) as stream:
            kinds = {event.type async for event in stream}
            message = await stream.get_final_message()
        assert {"thinking", "signature", "input_json", "content_block_stop"} <= kinds
        assert [block.type for block in message.content] == ["thinking", "tool_use", "tool_use"]
        assert [block.input for block in message.content if block.type == "tool_use"] == [CALLED_WITH] * 2
        assert (message.stop_reason, message.usage.output_tokens) == ("tool_use", 10)


class TestForms:
    async def test_a_form_is_filled(self, ask: Ask) -> None:
        message = await ask("messages.parse", model="echo", messages=HELLO, max_tokens=2, output_format=Words)
        assert message.parsed_output == Words(w0=0, w1=1)

    async def test_a_form_is_filled_bit_by_bit(self, client: anthropic.AsyncAnthropic) -> None:
        async with client.messages.stream(model="echo", messages=HELLO, max_tokens=2, output_format=Words) as stream:
            said = [event.text async for event in stream if isinstance(event, TextEvent)]
            message = await stream.get_final_message()
        assert "".join(said) == '{"w0": 0, "w1": 1}'
        assert message.parsed_output == Words(w0=0, w1=1)


async def test_a_stream_that_is_closed_frees_its_slot(suite: Suite, client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(model="echo-20", messages=HELLO, max_tokens=10_000) as stream:
        assert await anext(stream.text_stream) == "w0"
    await slots_are_free(suite)


async def test_who_loses_patience_frees_its_slot(suite: Suite, client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.APITimeoutError):
        await client.with_options(timeout=1).messages.create(model="echo-20", messages=HELLO, max_tokens=10_000)
    await slots_are_free(suite)
