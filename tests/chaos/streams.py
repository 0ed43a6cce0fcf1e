"""A client as a good one is: it comes again when told to, and reads a broken stream on through another gateway."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from tests.chaos.questions import EMBED, VECTOR, Question, is_vector_of
from tests.chaos.verdict import History, Piece

SILENCE_SECONDS = 60.0
"""Longer than any fault lasts: a stream that says nothing for so long hangs."""

CONNECT_SECONDS = 3.0
PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 2.0

COME_AGAIN = (429, 503)
RETRYABLE = ("unavailable", "overloaded", "rate_limited")
GOES_ON_ELSEWHERE = "restarting"


@dataclass
class Client:
    """``gateways``: addresses, of which it uses one until that fails it."""

    session: aiohttp.ClientSession
    gateways: Sequence[str]
    turn: int = 0
    history: list[History] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.gateways[self.turn % len(self.gateways)]

    async def ask(self, question: Question) -> None:
        """Until it has ended, or has been silent for too long."""
        history = History(question, time.monotonic())
        self.history.append(history)
        while not history.end and not history.silent:
            try:
                await (self._read_on(history) if history.request_id else self._send(history))
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                history.sent_again += not history.request_id
                self.turn += 1
                await asyncio.sleep(PAUSE_SECONDS)
            heard = history.pieces[-1].at if history.pieces else history.began
            history.silent = not history.end and time.monotonic() > heard + SILENCE_SECONDS
        history.ended = time.monotonic()

    async def _send(self, history: History) -> None:
        question = history.question
        async with self.session.post(self.url + question.path, json=question.body) as answer:
            if answer.status != 200:
                await self._refused(history, answer)
                return
            if question.path == EMBED:
                _take_vectors(history, await answer.json())
                return
            history.request_id = answer.headers["x-request-id"]
            await _read(history, answer)

    async def _read_on(self, history: History) -> None:
        history.resumed += 1
        path = f"/api/v1/inference/requests/{history.request_id}/stream"
        async with self.session.get(self.url + path, params={"after": history.seq}) as answer:
            if answer.status != 200:
                await self._refused(history, answer)
                return
            await _read(history, answer)

    async def _refused(self, history: History, answer: aiohttp.ClientResponse) -> None:
        history.refused += 1
        if answer.status not in COME_AGAIN:
            history.end = f"{answer.status}: {(await answer.text())[:200]}"
            return
        seconds = float(answer.headers.get("retry-after", PAUSE_SECONDS))
        self.turn += 1
        await asyncio.sleep(min(seconds, LONGEST_PAUSE_SECONDS))


async def _read(history: History, answer: aiohttp.ClientResponse) -> None:
    """Raises ``aiohttp.ClientError`` where the stream breaks, which is everywhere but at its end."""
    async for data in answer.content:
        line = msgspec.json.decode(data)
        if "error" in line:
            error = line["error"]
            code = str(error["code"]) if isinstance(error, dict) else str(error)
            if code == GOES_ON_ELSEWHERE or (code in RETRYABLE and history.resumed):
                raise aiohttp.ClientPayloadError(code)
            history.end = code
            return
        history.pieces.append(_piece(line))
        if line["done"]:
            history.tokens = line.get("eval_count", line.get("completion_tokens", 0))
            history.end = "done"
            return
    raise aiohttp.ClientPayloadError("it ended without an end")


def _piece(line: dict[str, Any]) -> Piece:
    """Of Ollama's words with numbers, or of what is read on."""
    message = line.get("message", line)
    text = message.get("content", line.get("response", line.get("text", "")))
    calls = tuple(call["function"]["name"] for call in message.get("tool_calls", ()))
    logprobs = tuple(entry["token"] for entry in line.get("logprobs", ()))
    return Piece(time.monotonic(), line["seq"], text, message.get("thinking", ""), calls, logprobs)


def _take_vectors(history: History, answer: dict[str, Any]) -> None:
    text, vectors = history.question.body["input"], answer["embeddings"]
    units = [VECTOR if is_vector_of(text, vector) else "w-wrong" for vector in vectors]
    history.pieces.append(Piece(time.monotonic(), 1, " ".join(units)))
    history.end = "done"


def a_session(api_key: str) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        headers={"Authorization": f"Bearer {api_key}"},
        timeout=timeout,
    )
