"""LangChain's own integration of OpenAI. It does not count tokens: its encodings would have to be downloaded."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from tests.e2e.sdks import words
from tests.fixtures.suite import Suite

pytestmark = pytest.mark.e2e

QUESTION = "hello you"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Words(BaseModel):
    """What the echo engine makes of a format, if it may say two words."""

    w0: int
    w1: int


MakeChat = Callable[..., ChatOpenAI]


@pytest.fixture
async def given(suite: Suite) -> AsyncIterator[dict[str, Any]]:
    """What all of them need. LangChain never closes connections that it made by itself."""
    with httpx2.Client(timeout=60) as http:
        async with httpx2.AsyncClient(timeout=60) as async_http:
            server = {"base_url": f"{suite.url}/v1", "api_key": SecretStr("-")}
            yield {**server, "http_client": http, "http_async_client": async_http}


@pytest.fixture(params=[False, True], ids=["chat completions", "responses"])
def a_chat(given: dict[str, Any], request: pytest.FixtureRequest) -> MakeChat:
    def make(model: str = "echo", **fields: Any) -> ChatOpenAI:
        return ChatOpenAI(model=model, use_responses_api=request.param, **given, **fields)

    return make


class TestChatOpenAI:
    async def test_invoke(self, a_chat: MakeChat) -> None:
        answer = await a_chat(max_tokens=3, temperature=0).ainvoke(QUESTION)
        assert answer.text == words(3)
        assert answer.usage_metadata is not None
        assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (2, 3)

    def test_synchronous(self, a_chat: MakeChat) -> None:
        assert a_chat(max_tokens=3).invoke(QUESTION).text == words(3)
        assert "".join(chunk.text for chunk in a_chat(max_tokens=3).stream(QUESTION)) == words(3)

    async def test_stream(self, a_chat: MakeChat) -> None:
        chunks = [chunk async for chunk in a_chat(max_tokens=20, stream_usage=True).astream(QUESTION)]
        assert "".join(chunk.text for chunk in chunks) == words(20)
        totals = [chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata]
        assert totals == [22]

    async def test_tools(self, a_chat: MakeChat) -> None:
        chat = a_chat("echo-tools", max_tokens=2).bind_tools([add])
        asked = await chat.ainvoke(QUESTION)
        [call] = asked.tool_calls
        assert (call["name"], call["args"]) == ("add", {"a": 0, "b": 1})
        result = ToolMessage("1", tool_call_id=call["id"])
        assert (await chat.ainvoke([HumanMessage(QUESTION), asked, result])).text == words(2)
        required = a_chat("echo-tools").bind_tools([add], tool_choice="add", parallel_tool_calls=False)
        called = [call["name"] async for chunk in required.astream(QUESTION) for call in chunk.tool_calls]
        assert [name for name in called if name] == ["add"]

    @pytest.mark.parametrize("method", ["json_schema", "function_calling"])
    async def test_structured_output(self, a_chat: MakeChat, method: Any) -> None:
        model = "echo" if method == "json_schema" else "echo-tools"
        chat = a_chat(model, max_tokens=2).with_structured_output(Words, method=method)
        assert await chat.ainvoke(QUESTION) == Words(w0=0, w1=1)


async def test_embeddings(given: dict[str, Any]) -> None:
    embeddings = OpenAIEmbeddings(model="echo", check_embedding_ctx_length=False, **given)
    one, two = await embeddings.aembed_documents(["a cat", "a dog"])
    assert one == await embeddings.aembed_query("a cat") == embeddings.embed_query("a cat") != two


async def test_completions(given: dict[str, Any]) -> None:
    llm = OpenAI(model="echo", max_tokens=3, **given)
    assert await llm.ainvoke(QUESTION) == llm.invoke(QUESTION) == words(3)
    assert "".join([text async for text in llm.astream(QUESTION)]) == words(3)
