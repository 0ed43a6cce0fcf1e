"""What OpenAI's and Anthropic's own clients raise when they are told no: by the status, and in the middle of a stream.

Every other status is in the unit tests: these are the ones that the services come to by themselves.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import anthropic
import openai
import pytest

from tests.e2e.sdks import a_key, words
from tests.fixtures.ports import free_port
from tests.fixtures.suite import Suite

pytestmark = pytest.mark.e2e

Raised = TypeVar("Raised", bound=anthropic.APIError)

HELLO: Any = [{"role": "user", "content": "hello you"}]


@pytest.fixture
async def by_openai(suite: Suite) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{suite.url}/v1", api_key="-", max_retries=0) as client:
        yield client


@pytest.fixture
async def by_anthropic(suite: Suite) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=suite.url, api_key="-", max_retries=0) as client:
        yield client


class TestOpenAI:
    async def refused(
        self, client: openai.AsyncOpenAI, raised: type[openai.APIError], model: str = "echo", **fields: Any
    ) -> openai.APIError:
        with pytest.raises(raised) as refusal:
            await client.chat.completions.create(model=model, messages=HELLO, **fields)
        assert type(refusal.value) is raised
        return refusal.value

    async def test_what_is_wrong_is_named(self, by_openai: openai.AsyncOpenAI) -> None:
        error = await self.refused(by_openai, openai.BadRequestError, n=0)
        assert (error.param, error.type) == ("n", "invalid_request_error")
        error = await self.refused(by_openai, openai.NotFoundError, model="nothing")
        assert (error.param, error.code) == ("model", "model_not_found")
        assert (await self.refused(by_openai, openai.BadRequestError, store=True)).param == "store"

    async def test_who_may_not(self, suite: Suite, by_openai: openai.AsyncOpenAI) -> None:
        stranger = by_openai.with_options(api_key="omx_" + "x" * 43)
        assert (await self.refused(stranger, openai.AuthenticationError)).code == "invalid_api_key"
        reader = by_openai.with_options(api_key=await a_key(suite, scopes=["model:read"]))
        assert (await reader.models.list()).data
        await self.refused(reader, openai.PermissionDeniedError)
        limited = by_openai.with_options(api_key=await a_key(suite, limits={"requests_per_minute": 1}))
        await limited.chat.completions.create(model="echo", messages=HELLO, max_tokens=1)
        assert (await self.refused(limited, openai.RateLimitError)).code == "rate_limit_exceeded"

    async def test_nobody_is_there(self, by_openai: openai.AsyncOpenAI) -> None:
        nobody = by_openai.with_options(base_url=f"http://127.0.0.1:{free_port()}/v1")
        await self.refused(nobody, openai.APIConnectionError)

    async def test_an_engine_fails_before_the_first_word(self, by_openai: openai.AsyncOpenAI) -> None:
        error = await self.refused(by_openai, openai.InternalServerError, model="echo-fail-after-0")
        assert error.code == "attempts_exhausted"

    async def test_an_engine_fails_in_the_middle(self, by_openai: openai.AsyncOpenAI) -> None:
        """It got on a little in each of its attempts."""
        said: list[str] = []

        async def listen() -> None:
            model = "echo-fail-after-3"
            async for chunk in await by_openai.chat.completions.create(model=model, messages=HELLO, stream=True):
                said.append(chunk.choices[0].delta.content or "")

        with pytest.raises(openai.APIError, match="given up") as broken:
            await listen()
        assert type(broken.value) is openai.APIError
        assert "".join(said).startswith(words(3))

    async def test_a_response_fails_in_the_middle(self, by_openai: openai.AsyncOpenAI) -> None:
        events = await by_openai.responses.create(model="echo-fail-after-3", input="hello", stream=True)
        *_, failed = [event async for event in events]
        assert failed.type == "response.failed"
        assert failed.response.error
        assert "given up" in failed.response.error.message


class TestAnthropic:
    async def refused(self, client: anthropic.AsyncAnthropic, raised: type[Raised], **fields: Any) -> Raised:
        with pytest.raises(raised) as refusal:
            await client.messages.create(**{"model": "echo", "messages": HELLO, "max_tokens": 2, **fields})
        assert type(refusal.value) is raised
        return refusal.value

    async def test_what_is_wrong_is_named(self, by_anthropic: anthropic.AsyncAnthropic) -> None:
        error = await self.refused(by_anthropic, anthropic.BadRequestError, extra_body={"temperature": 2})
        assert "temperature must be a number from 0 to 1" in error.message
        assert error.type == "invalid_request_error"
        unknown = await self.refused(by_anthropic, anthropic.NotFoundError, model="nothing")
        assert unknown.type == "not_found_error"

    async def test_who_may_not(self, suite: Suite, by_anthropic: anthropic.AsyncAnthropic) -> None:
        stranger = by_anthropic.with_options(api_key="omx_" + "x" * 43)
        assert (await self.refused(stranger, anthropic.AuthenticationError)).type == "authentication_error"
        reader = by_anthropic.with_options(api_key=await a_key(suite, scopes=["model:read"]))
        assert (await self.refused(reader, anthropic.PermissionDeniedError)).type == "permission_error"
        limited = by_anthropic.with_options(api_key=await a_key(suite, limits={"requests_per_minute": 1}))
        await limited.messages.create(model="echo", messages=HELLO, max_tokens=1)
        assert (await self.refused(limited, anthropic.RateLimitError)).type == "rate_limit_error"

    async def test_nobody_is_there(self, by_anthropic: anthropic.AsyncAnthropic) -> None:
        nobody = by_anthropic.with_options(base_url=f"http://127.0.0.1:{free_port()}")
        await self.refused(nobody, anthropic.APIConnectionError)

    async def test_an_engine_fails_before_the_first_word(self, by_anthropic: anthropic.AsyncAnthropic) -> None:
        error = await self.refused(by_anthropic, anthropic.InternalServerError, model="echo-fail-after-0")
        assert error.type == "api_error"

    async def test_an_engine_fails_in_the_middle(self, by_anthropic: anthropic.AsyncAnthropic) -> None:
        said: list[str] = []

        async def listen() -> None:
            async with by_anthropic.messages.stream(model="echo-fail-after-3", messages=HELLO, max_tokens=64) as stream:
                async for text in stream.text_stream:
                    said.append(text)

        with pytest.raises(anthropic.APIStatusError, match="given up") as broken:
            await listen()
        assert broken.value.type == "api_error"
        assert "".join(said).startswith(words(3))


async def test_both_kinds_of_client_raise_the_same(suite: Suite) -> None:
    def ask_openai() -> None:
        with openai.OpenAI(base_url=f"{suite.url}/v1", api_key="-", max_retries=0) as client:
            client.chat.completions.create(model="nothing", messages=HELLO)

    def ask_anthropic() -> None:
        with anthropic.Anthropic(base_url=suite.url, api_key="-", max_retries=0) as client:
            client.messages.create(model="nothing", messages=HELLO, max_tokens=1)

    with pytest.raises(openai.NotFoundError):
        await asyncio.to_thread(ask_openai)
    with pytest.raises(anthropic.NotFoundError):
        await asyncio.to_thread(ask_anthropic)
