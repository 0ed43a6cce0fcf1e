"""What doors have in common, and routes beside the dialects' own, with the official clients where they have them."""

import gzip
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
import zstandard

from tests.e2e.contract import EMBEDDER, MODEL
from tests.e2e.test_limits import a_key
from tests.fixtures.suite import Suite

pytestmark = pytest.mark.e2e

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}
HELLO: Any = [{"role": "user", "content": "hello"}]


class Compressing(httpx2.AsyncHTTPTransport):
    """Sends every body as Codex does."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        content = COMPRESS[self._encoding](await request.aread())
        headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"content-length"]
        headers += [(b"Content-Encoding", self._encoding.encode()), (b"Content-Length", str(len(content)).encode())]
        compressed = httpx2.Request(request.method, request.url, headers=headers, content=content)
        return await super().handle_async_request(compressed)


@pytest.mark.parametrize("encoding", COMPRESS)
async def test_clients_may_compress_what_they_send(suite: Suite, encoding: str) -> None:
    async with httpx2.AsyncClient(transport=Compressing(encoding), timeout=30) as http:
        by_openai = openai.AsyncOpenAI(base_url=f"{suite.url}/v1", api_key="-", http_client=http)
        chat = await by_openai.chat.completions.create(model="echo", messages=HELLO, max_tokens=3)
        assert chat.choices[0].message.content == "w0 w1 w2"
        by_anthropic = anthropic.AsyncAnthropic(base_url=suite.url, api_key="-", http_client=http)
        message = await by_anthropic.messages.create(model="echo", messages=HELLO, max_tokens=3)
        assert [block.text for block in message.content if block.type == "text"] == ["w0 w1 w2"]
        long = {"model": "echo", "prompt": "a" * 2_000_000 + " b", "stream": False, "options": {"num_predict": 1}}
        assert (await http.post(f"{suite.url}/api/generate", json=long)).json()["prompt_eval_count"] == 2


async def test_clients_hear_of_limits_in_their_own_headers(suite: Suite, admin: httpx.AsyncClient) -> None:
    _, header = await a_key(admin, requests_per_minute=2, tokens_per_day=10_000)
    key = header["Authorization"].removeprefix("Bearer ")
    by_openai = openai.AsyncOpenAI(base_url=f"{suite.url}/v1", api_key=key, max_retries=0)
    by_anthropic = anthropic.AsyncAnthropic(base_url=suite.url, api_key=key, max_retries=0)
    async with by_openai, by_anthropic:
        first = await by_openai.chat.completions.with_raw_response.create(model="echo", messages=HELLO, max_tokens=3)
        told = first.headers
        assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"]) == ("2", "1")
        assert told["x-ratelimit-limit-tokens"] == "10000"
        assert first.parse()._request_id == told["x-request-id"]
        second = await by_anthropic.messages.with_raw_response.create(model="echo", messages=HELLO, max_tokens=3)
        told = second.headers
        assert told["anthropic-ratelimit-requests-remaining"] == "0"
        assert (await second.parse())._request_id == told["request-id"]
        with pytest.raises(openai.RateLimitError) as refused:
            await by_openai.chat.completions.create(model="echo", messages=HELLO)
        assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert int(refused.value.response.headers["retry-after"]) <= 61
        with pytest.raises(anthropic.RateLimitError) as refused_too:
            await by_anthropic.messages.create(model="echo", messages=HELLO, max_tokens=3)
        assert int(refused_too.value.response.headers["retry-after"]) <= 61


async def test_a_day_that_is_used_up_is_no_quota(suite: Suite, admin: httpx.AsyncClient) -> None:
    _, header = await a_key(admin, tokens_per_day=10)
    key = header["Authorization"].removeprefix("Bearer ")
    async with openai.AsyncOpenAI(base_url=f"{suite.url}/v1", api_key=key, max_retries=0) as client:
        await client.chat.completions.create(model="echo", messages=HELLO, max_tokens=9)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="echo", messages=HELLO, max_tokens=9)
    assert refused.value.code == "insufficient_quota"


async def test_no_engine_hears_speaks_or_paints(suite: Suite) -> None:
    async with openai.AsyncOpenAI(base_url=f"{suite.url}/v1", api_key="-", max_retries=0) as client:
        for asking in (
            client.audio.transcriptions.create(model="whisper-1", file=("a.wav", bytes(1_000_000))),
            client.audio.speech.create(model="tts-1", voice="alloy", input="hello"),
            client.images.generate(model="echo", prompt="a cat"),
            client.images.edit(model="echo", prompt="a cat", image=("a.png", bytes(1_000_000))),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                await asking
            assert refused.value.code == "unsupported"


async def test_tokens_and_ranks_of_the_echo_engine(http: httpx.AsyncClient) -> None:
    answer = (await http.post("/api/tokenize", json={"model": "echo", "content": "w5 w1"})).json()
    assert answer["tokens"] == [5, 1]
    answer = (await http.post("/api/detokenize", json={"model": "echo", "tokens": [5, 1]})).json()
    assert answer["content"] == "w5 w1"
    asked = {"model": "echo", "query": "red fish", "documents": ["blue fish", "a red fish", "bird"]}
    for path in ("/api/rerank", "/v1/rerank"):
        results = (await http.post(path, json=asked)).json()["results"]
        assert [(each["index"], each["relevance_score"]) for each in results] == [(1, 1.0), (0, 0.5), (2, 0.0)]


@pytest.mark.real_model
async def test_tokens_and_ranks_of_real_models(http: httpx.AsyncClient) -> None:
    text = "Hello, wörld! <|im_start|> 日本"
    tokens = (await http.post("/api/tokenize", json={"model": MODEL, "text": text})).json()["tokens"]
    assert len(tokens) > 5
    answer = (await http.post("/api/detokenize", json={"model": MODEL, "tokens": tokens})).json()
    assert answer["content"] == text
    special = (
        await http.post("/api/tokenize", json={"model": MODEL, "text": "<|im_start|>", "add_special": True})
    ).json()
    assert len(special["tokens"]) == 1
    unknown = await http.post("/api/detokenize", json={"model": MODEL, "tokens": [2**31 - 1]})
    assert unknown.status_code == 400
    for model in (EMBEDDER, MODEL):
        asked = {"model": model, "query": "a cat sat", "documents": ["tax law", "a cat sat", "the weather"], "top_n": 2}
        answer = (await http.post("/v1/rerank", json=asked)).json()
        assert answer["results"][0]["index"] == 1, answer
        assert len(answer["results"]) == 2
        assert answer["usage"]["total_tokens"] > 0
