"""Each of our errors is raised by OpenAI's and Anthropic's own clients as the class its users catch."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from libs.common.contracts.inference import InferenceTask
from libs.common.errors import (
    AttemptsExhausted,
    Conflict,
    ContextExceeded,
    DeadlineExceeded,
    EngineFailed,
    Forbidden,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    RateLimited,
    RequestCancelled,
    Restarting,
    ServiceError,
    StorageFull,
    StreamLost,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedByModel,
)
from services.gateway.api import create_app
from tests.fixtures.gateway import Gateway, ScriptedStream, hello

HELLO: Any = [{"role": "user", "content": "hello"}]

RAISED: dict[type[ServiceError], tuple[type[openai.APIError], type[anthropic.APIError]]] = {
    InvalidRequest: (openai.BadRequestError, anthropic.BadRequestError),
    ContextExceeded: (openai.BadRequestError, anthropic.BadRequestError),
    UnsupportedByModel: (openai.BadRequestError, anthropic.BadRequestError),
    Unauthenticated: (openai.AuthenticationError, anthropic.AuthenticationError),
    Forbidden: (openai.PermissionDeniedError, anthropic.PermissionDeniedError),
    ModelNotFound: (openai.NotFoundError, anthropic.NotFoundError),
    Conflict: (openai.ConflictError, anthropic.ConflictError),
    TooLarge: (openai.APIStatusError, anthropic.ContentTooLargeError),
    RateLimited: (openai.RateLimitError, anthropic.RateLimitError),
    RequestCancelled: (openai.APIStatusError, anthropic.ClientClosedRequestError),
    EngineFailed: (openai.InternalServerError, anthropic.InternalServerError),
    AttemptsExhausted: (openai.InternalServerError, anthropic.InternalServerError),
    StreamLost: (openai.InternalServerError, anthropic.InternalServerError),
    Unavailable: (openai.InternalServerError, anthropic.ServiceUnavailableError),
    Restarting: (openai.InternalServerError, anthropic.ServiceUnavailableError),
    Overloaded: (openai.InternalServerError, anthropic.OverloadedError),
    DeadlineExceeded: (openai.InternalServerError, anthropic.GatewayTimeoutError),
    StorageFull: (openai.InternalServerError, anthropic.InternalServerError),
}


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(create_app(gateway.ctx))) as http:
        yield http


@pytest.fixture
def by_openai(http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="-", http_client=http, max_retries=0)


@pytest.fixture
def by_anthropic(http: httpx2.AsyncClient) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url="http://127.0.0.1", api_key="-", http_client=http, max_retries=0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("error", RAISED, ids=lambda error: error.code)
async def test_before_the_first_word(
    gateway: Gateway,
    by_openai: openai.AsyncOpenAI,
    by_anthropic: anthropic.AsyncAnthropic,
    error: type[ServiceError],
    stream: bool,
) -> None:
    gateway.play = lambda _: ScriptedStream().fail(error("of a reason"))
    for_openai, for_anthropic = RAISED[error]
    with pytest.raises(for_openai, match="of a reason") as raised:
        await by_openai.chat.completions.create(model="m", messages=HELLO, stream=stream)
    assert type(raised.value) is for_openai
    assert raised.value.type
    assert isinstance(raised.value, openai.APIStatusError)
    assert raised.value.request_id
    with pytest.raises(for_openai, match="of a reason"):
        await by_openai.responses.create(model="m", input="hello", stream=stream)
    with pytest.raises(for_anthropic, match="of a reason") as refused:
        await by_anthropic.messages.create(model="m", messages=HELLO, max_tokens=9, stream=stream)
    assert type(refused.value) is for_anthropic
    assert isinstance(refused.value, anthropic.APIStatusError)
    assert (refused.value.request_id or "").startswith("req_")


@pytest.mark.parametrize("error", [EngineFailed, Unavailable, Overloaded], ids=lambda error: error.code)
async def test_in_the_middle_of_a_stream(
    gateway: Gateway, by_openai: openai.AsyncOpenAI, by_anthropic: anthropic.AsyncAnthropic, error: type[ServiceError]
) -> None:
    gateway.play = lambda _: ScriptedStream().say("Hel").fail(error("of a reason"))
    chunks = await by_openai.chat.completions.create(model="m", messages=HELLO, stream=True)
    assert (await anext(aiter(chunks))).choices[0].delta.content == "Hel"
    with pytest.raises(openai.APIError, match="of a reason"):
        await anext(aiter(chunks))
    texts = await by_openai.completions.create(model="m", prompt="hello", stream=True)
    assert (await anext(aiter(texts))).choices[0].text == "Hel"
    with pytest.raises(openai.APIError, match="of a reason"):
        await anext(aiter(texts))
    *_, failed = [event async for event in await by_openai.responses.create(model="m", input="hello", stream=True)]
    assert failed.type == "response.failed"
    assert failed.response.error
    assert failed.response.error.message == "of a reason"
    async with by_anthropic.messages.stream(model="m", messages=HELLO, max_tokens=9) as stream:
        assert await anext(stream.text_stream) == "Hel"
        with pytest.raises(anthropic.APIStatusError, match="of a reason") as raised:
            await stream.until_done()
    assert raised.value.type == ("api_error" if error is EngineFailed else "overloaded_error")


async def test_what_passes_is_tried_again(gateway: Gateway, http: httpx2.AsyncClient) -> None:
    """As their users leave it: twice, after as long as the answer says."""
    refusals = [Overloaded(retry_after=0.001), Unavailable(retry_after=0.001)]

    def play(task: InferenceTask) -> ScriptedStream:
        return ScriptedStream().fail(refusals.pop()) if refusals else hello(task)

    gateway.play = play
    patient = openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="-", http_client=http)
    answer = await patient.chat.completions.create(model="m", messages=HELLO)
    assert (answer.choices[0].message.content, len(gateway.started)) == ("Hello", 3)
