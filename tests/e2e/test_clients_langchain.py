"""LangChain's own integration of Ollama."""

import gc
import warnings
from collections.abc import AsyncIterator, Callable

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from pydantic import BaseModel

from tests.e2e.contract import EMBEDDER, MODEL
from tests.fixtures.suite import Suite

pytestmark = pytest.mark.e2e

QUESTION = "What is the capital of France? Answer in one word."


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Capital(BaseModel):
    """A capital city."""

    name: str


MakeChat = Callable[..., ChatOllama]


@pytest.fixture
async def a_chat(suite: Suite) -> AsyncIterator[MakeChat]:
    made: list[ChatOllama] = []

    def make(model: str, **fields: object) -> ChatOllama:
        made.append(ChatOllama(model=model, base_url=suite.url, **fields))
        return made[-1]

    yield make
    for chat in made:
        await close(chat)


async def close(integration: ChatOllama | OllamaEmbeddings) -> None:
    """LangChain has no way to close a connection but to wait for the garbage collector, which warns."""
    assert integration._client is not None
    assert integration._async_client is not None
    integration._client.close()  # type: ignore[no-untyped-call]
    await integration._async_client.close()  # type: ignore[no-untyped-call]


@pytest.mark.real_model
class TestChatOllama:
    async def test_invoke(self, a_chat: MakeChat) -> None:
        answer = await a_chat(MODEL, temperature=0, num_predict=40).ainvoke(QUESTION)
        assert "Paris" in answer.text
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] > 0
        assert answer.response_metadata["done_reason"] == "stop"

    async def test_stream(self, a_chat: MakeChat) -> None:
        chat = a_chat(MODEL, temperature=0, num_predict=40)
        assert "Paris" in "".join([chunk.text async for chunk in chat.astream(QUESTION)])

    def test_synchronous(self, a_chat: MakeChat) -> None:
        assert "Paris" in a_chat(MODEL, temperature=0, num_predict=40).invoke(QUESTION).text

    async def test_structured_output(self, a_chat: MakeChat) -> None:
        chat = a_chat(MODEL, temperature=0, num_predict=60).with_structured_output(Capital)
        assert isinstance(await chat.ainvoke(QUESTION), Capital)

    def test_the_model_is_validated_when_it_is_made(self, a_chat: MakeChat) -> None:
        assert a_chat(MODEL, validate_model_on_init=True).model == MODEL

    def test_an_unknown_model_is_found_out_when_it_is_made(self, a_chat: MakeChat) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # nobody is given what could be closed
            with pytest.raises(ValueError, match="not found in Ollama"):
                a_chat("nothing", validate_model_on_init=True)
            gc.collect()


class TestTools:
    async def test_results_come_back_without_id_and_name(self, a_chat: MakeChat) -> None:
        chat = a_chat("echo-tools").bind_tools([add])
        answer = await chat.ainvoke(QUESTION)
        [call] = answer.tool_calls
        assert call["name"] == "add"
        assert set(call["args"]) == {"a", "b"}
        result = ToolMessage("3", tool_call_id=call["id"])
        assert (await chat.ainvoke([HumanMessage(QUESTION), answer, result])).response_metadata["done"]

    async def test_reasoning(self, a_chat: MakeChat) -> None:
        answer = await a_chat("echo-think", reasoning=True).ainvoke(QUESTION)
        assert answer.additional_kwargs["reasoning_content"]
        assert answer.text


@pytest.mark.real_model
class TestOllamaEmbeddings:
    @pytest.fixture
    async def embeddings(self, suite: Suite) -> AsyncIterator[OllamaEmbeddings]:
        embeddings = OllamaEmbeddings(model=EMBEDDER, base_url=suite.url)
        yield embeddings
        await close(embeddings)

    async def test_query_and_documents(self, embeddings: OllamaEmbeddings) -> None:
        query = await embeddings.aembed_query("Where do cats sleep?")
        cats, tax = await embeddings.aembed_documents(["Cats sleep in baskets.", "The tax year ends in April."])

        def likeness(vector: list[float]) -> float:
            return sum(a * b for a, b in zip(query, vector, strict=True))

        assert likeness(cats) > likeness(tax) + 0.2
