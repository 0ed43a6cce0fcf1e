"""/v1/responses through OpenAI's own client: kept, gone on from, made in the background, read on elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from tests.e2e.sdks import a_key, slots_are_free, words
from tests.fixtures.suite import Process, Suite, eventually

pytestmark = [pytest.mark.e2e]

LONG = 80
"""Tokens of an answer that is broken off, at 20 a second."""


def a_client(url: str, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture
async def key(suite: Suite) -> str:
    return await a_key(suite)


@pytest.fixture
async def client(suite: Suite, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with a_client(suite.url, key) as client:
        yield client


@pytest.fixture
async def second(suite: Suite, key: str) -> AsyncIterator[tuple[openai.AsyncOpenAI, Process]]:
    """A gateway more, that may be killed."""
    async with suite.another_gateway() as (url, process), a_client(url, key) as client:
        yield client, process


async def until(client: openai.AsyncOpenAI, response_id: str, *statuses: str) -> Response:
    found: list[Response] = []

    async def is_so() -> bool:
        found.append(await client.responses.retrieve(response_id))
        return found[-1].status in statuses

    await eventually(is_so, f"the response is {' or '.join(statuses)}", 60)
    return found[-1]


async def test_created_kept_and_deleted(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(model="echo", input="hello", max_output_tokens=3, store=True)
    assert (made.status, made.output_text) == ("incomplete", words(3))
    assert await client.responses.retrieve(made.id) == made
    (item,) = (await client.responses.input_items.list(made.id)).data
    assert item.type == "message"
    await client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)


async def test_streamed(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="echo-think", input="hello") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.reasoning_summary_text.done") == kinds.count("response.output_text.done") == 1
    assert final.status == "completed"
    assert final.usage is not None
    assert 0 < final.usage.output_tokens_details.reasoning_tokens < final.usage.output_tokens


class Numbers(BaseModel):
    w0: int
    w1: int


async def test_tools_and_structured_answers(client: openai.AsyncOpenAI) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool: Any = {"type": "function", "name": "weather", "parameters": parameters, "strict": True}
    first = await client.responses.create(model="echo-tools", input="how is it?", tools=[tool], store=True)
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("weather", '{"city": "a0"}')
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = await client.responses.create(
        model="echo-tools", input=[result], tools=[tool], previous_response_id=first.id, max_output_tokens=2
    )
    assert second.output_text == words(2)
    parsed = await client.responses.parse(model="echo", input="two", text_format=Numbers, max_output_tokens=2)
    assert parsed.output_parsed == Numbers(w0=0, w1=1)


async def test_a_conversation_goes_on_through_any_gateway(
    client: openai.AsyncOpenAI, second: tuple[openai.AsyncOpenAI, Process]
) -> None:
    other, _ = second
    first = await client.responses.create(model="echo", input="one two", store=True, max_output_tokens=3)
    more = await other.responses.create(
        model="echo", input="three", previous_response_id=first.id, store=True, max_output_tokens=3
    )
    last = await client.responses.create(
        model="echo", input="four", previous_response_id=more.id, instructions="be brief", max_output_tokens=3
    )
    assert [each.usage and each.usage.input_tokens for each in (first, more, last)] == [2, 6, 12]
    with pytest.raises(openai.BadRequestError) as unknown:
        await client.responses.create(model="echo", input="x", previous_response_id="resp_none")
    assert unknown.value.code == "previous_response_not_found"


async def test_in_the_background_though_its_gateway_is_killed(
    client: openai.AsyncOpenAI, second: tuple[openai.AsyncOpenAI, Process]
) -> None:
    other, process = second
    queued = [
        await other.responses.create(model="echo-20", input=f"{number}", background=True, max_output_tokens=LONG)
        for number in range(3)
    ]
    assert {each.status for each in queued} <= {"queued", "in_progress"}
    for each in queued:
        await until(client, each.id, "in_progress", "incomplete")
    process.kill()
    for each in queued:
        done = await until(client, each.id, "incomplete")
        assert done.output_text == words(LONG)
        assert done.usage is not None
        assert done.usage.output_tokens == LONG


async def read(stream: openai.AsyncStream[Any], seen: list[Any], at_a_word: Callable[[], None]) -> None:
    async for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            at_a_word()


async def test_a_stream_is_read_on_through_another_gateway(
    client: openai.AsyncOpenAI, second: tuple[openai.AsyncOpenAI, Process]
) -> None:
    other, process = second
    seen: list[Any] = []
    stream = await other.responses.create(
        model="echo-20", input="x", background=True, stream=True, max_output_tokens=LONG
    )
    with suppress(openai.APIError, httpx.TransportError):  # or all of it was on its way already
        await read(stream, seen, process.kill)
    response_id = seen[0].response.id
    rest = await client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
    seen += [event async for event in rest]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == words(LONG)
    assert seen[-1].type == "response.incomplete"
    await until(client, response_id, "incomplete")
    again = await client.responses.retrieve(response_id, stream=True)
    assert [event.model_dump() async for event in again] == [event.model_dump() for event in seen]


async def test_cancelled(suite: Suite, client: openai.AsyncOpenAI) -> None:
    running = await client.responses.create(model="echo-20", input="x", background=True, max_output_tokens=2000)
    await until(client, running.id, "in_progress")
    assert (await client.responses.cancel(running.id)).status == "cancelled"
    await slots_are_free(suite)
    assert (await client.responses.retrieve(running.id)).status == "cancelled"
    now = await client.responses.create(model="echo", input="x", store=True, max_output_tokens=1)
    with pytest.raises(openai.BadRequestError):
        await client.responses.cancel(now.id)


@asynccontextmanager
async def a_stranger(suite: Suite) -> AsyncIterator[openai.AsyncOpenAI]:
    async with suite.admin() as admin:
        await admin.post("/api/v1/organizations", json={"id": "strangers", "name": "Strangers"})
        credentials = {"email": "admin@localhost", "password": suite.admin_password, "organization": "strangers"}
        token = (await admin.post("/api/v1/auth/login", json=credentials)).json()["access_token"]
    async with a_client(suite.url, token) as client:
        yield client


async def test_nothing_of_it_is_there_for_others(suite: Suite, client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(model="echo", input="x", store=True, max_output_tokens=1)
    async with a_stranger(suite) as stranger:
        asked = (
            stranger.responses.retrieve(made.id),
            stranger.responses.delete(made.id),
            stranger.responses.cancel(made.id),
            stranger.responses.create(model="echo", input="x", previous_response_id=made.id),
        )
        *of_it, goes_on = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in of_it] == [openai.NotFoundError] * 3
    assert isinstance(goes_on, openai.BadRequestError)
    assert goes_on.code == "previous_response_not_found"
    assert await client.responses.retrieve(made.id) == made
