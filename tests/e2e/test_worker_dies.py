"""A worker dies in the middle of an answer: the client's stream goes on, without a lost or a doubled token."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psutil
import pytest

from tests.fixtures.suite import Process, Suite, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

TOKENS = 60
LONG = 200
"""Four seconds of echo-50: time to find out who runs it."""


async def stream(suite: Suite, body: dict[str, object], route: str = "generate") -> AsyncIterator[dict[str, Any]]:
    async with (
        httpx.AsyncClient(timeout=60) as http,
        http.stream("POST", f"{suite.url}/api/{route}", json=body) as answer,
    ):
        async for line in answer.aiter_lines():
            yield json.loads(line)


def a_body(prompt: str, model: str = "echo-50", **changes: object) -> dict[str, object]:
    return {"model": model, "prompt": prompt, "options": {"num_predict": TOKENS}, **changes}


async def whole_answer(suite: Suite, body: dict[str, object]) -> str:
    return "".join([str(line["response"]) async for line in stream(suite, body)])


async def busy_worker(suite: Suite) -> Process:
    for name, process in suite.processes.items():
        if process.service == "worker" and await suite.metric(name, "worker_requests_running"):
            return process
    raise AssertionError("no worker is busy")


async def answer_while(
    suite: Suite, body: dict[str, object], after_words: int, fault: int
) -> tuple[str, dict[str, object]]:
    """The whole answer, the busy worker having got the signal after so many words; and the last line."""
    text, struck, victim = "", False, None
    line: dict[str, object] = {}
    try:
        async for line in stream(suite, body):
            assert "error" not in line, line
            text += str(line["response"])
            if not struck and len(text.split()) >= after_words:
                struck, victim = True, await busy_worker(suite)
                victim.signal(fault)
    finally:
        if victim is not None:
            await revive(victim)
    return text, line


async def revive(process: Process) -> None:
    process.kill()
    process.start()
    await eventually(process.ready, "the worker is back", 60)


@pytest.mark.parametrize("after_words", [1, 2, 3, 5, 8, 13, 20, 30, 45])
async def test_killed_at_many_points(suite: Suite, after_words: int) -> None:
    body = a_body(f"cut after {after_words}", options={"num_predict": LONG})
    expected = await whole_answer(suite, {**body, "model": "echo"})
    text, last = await answer_while(suite, body, after_words, signal.SIGKILL)
    assert text == expected
    assert last["eval_count"] == LONG


async def test_an_answer_that_cannot_be_continued_is_replayed(suite: Suite) -> None:
    body = a_body("as json", format="json")
    expected = await whole_answer(suite, body)
    text, _ = await answer_while(suite, body, 2, signal.SIGKILL)
    assert text == expected


@pytest.mark.parametrize(
    ("model", "after"),
    [("echo-think-20", 1), ("echo-think-20", 10), ("echo-think-tools-2", 9)],
    ids=["thinking", "answering", "between two calls"],
)
async def test_thinking_calls_and_logprobs_survive(suite: Suite, model: str, after: int) -> None:
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": f"{model} after {after}"}],
        "tools": [
            {"type": "function", "function": {"name": name}} for name in ("add", "sub", "mul", "div", "pow", "neg")
        ],
        "options": {"num_predict": 80},
        "logprobs": True,
    }
    undisturbed = [line async for line in stream(suite, body, "chat")]
    lines, victim = [], None
    async for line in stream(suite, body, "chat"):
        assert "error" not in line, line
        lines.append(line)
        if victim is None and len(tokens(lines)) >= after:
            victim = await busy_worker(suite)
            victim.kill()
    assert victim is not None
    await revive(victim)
    assert whole_message(lines) == whole_message(undisturbed)
    assert tokens(lines) == tokens(undisturbed)


def tokens(lines: list[dict[str, Any]]) -> list[str]:
    return [entry["token"] for line in lines for entry in line.get("logprobs", ())]


def whole_message(lines: list[dict[str, Any]]) -> tuple[str, str, list[object]]:
    """Thinking, content and calls without their ids, which belong to the request."""
    messages = [line["message"] for line in lines]
    calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    return "".join(m.get("thinking", "") for m in messages), "".join(m["content"] for m in messages), calls


async def test_a_frozen_worker_is_replaced_and_cannot_speak_again(suite: Suite) -> None:
    body = a_body("frozen")
    expected = await whole_answer(suite, body)
    text, _ = await answer_while(suite, body, 10, signal.SIGSTOP)
    assert text == expected


@pytest.mark.real_model
async def test_the_real_model_goes_on(suite: Suite) -> None:
    options = {"num_predict": 48, "temperature": 0, "seed": 7}
    body = a_body("Write a long story about the sea.", model="smollm2:135m", options=options)
    text, last = await answer_while(suite, body, 2, signal.SIGKILL)
    assert last["eval_count"] == 48
    assert last["done_reason"] == "length"
    assert len(text.split()) > 20


@pytest.mark.real_model
async def test_a_models_process_dies_and_its_worker_lives(suite: Suite) -> None:
    options = {"num_predict": 48, "temperature": 0, "seed": 7}
    body = a_body("Write a long story about the desert.", model="smollm2:135m", options=options)
    words, worker = 0, None
    line: dict[str, object] = {}
    async for line in stream(suite, body):
        assert "error" not in line, line
        words += 1
        if words == 2:
            worker = await busy_worker(suite)
            kill_models_of(worker)
    assert worker is not None
    assert worker.popen is not None
    assert worker.popen.poll() is None
    assert line["eval_count"] == 48


def kill_models_of(worker: Process) -> None:
    assert worker.popen is not None
    models = psutil.Process(worker.popen.pid).children()
    assert models
    for model in models:
        model.kill()


async def test_many_streams_survive_one_worker(suite: Suite) -> None:
    bodies = [a_body(f"one of many {number}", "echo-20") for number in range(8)]
    expected = [await whole_answer(suite, {**body, "model": "echo"}) for body in bodies]
    answers = [asyncio.create_task(whole_answer(suite, body)) for body in bodies]
    victim = suite.workers()[0]

    async def is_busy() -> bool:
        return await suite.metric("worker-0", "worker_requests_running") >= 2

    await eventually(is_busy, "the first worker runs some of them")
    await revive(victim)
    assert await asyncio.gather(*answers) == expected
