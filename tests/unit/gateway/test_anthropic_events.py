"""Streams of /v1/messages, byte for byte, and as Anthropic's own types read them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from libs.common.contracts.tokens import StreamEnd, Usage
from libs.common.errors import EngineFailed
from services.gateway.api.anthropic.events import Events
from tests.fixtures.gateway import Gateway, ScriptedStream

GOLDEN = Path(__file__).with_name("golden")
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
USAGE = Usage(prompt_tokens=5, completion_tokens=3)
BODY = {"model": "m", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}], "stream": True}
CALLS = [
    {"id": "call_1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Zürich\u2028"}}},
    {"id": "call_2", "function": {"index": 1, "name": "time", "arguments": {}}},
]


def a_stream() -> ScriptedStream:
    return ScriptedStream(request_id="0" * 32)


SCRIPTS: dict[str, Callable[[], ScriptedStream]] = {
    "text": lambda: a_stream().say("Hel").say("lo\n").say(end=StreamEnd(usage=USAGE)),
    "one_frame": lambda: a_stream().say("Hello", end=StreamEnd("length", usage=USAGE)),
    "stop_sequence": lambda: a_stream().say("Hel").say("lo", end=StreamEnd(usage=USAGE, stop_sequence="END")),
    "thinking": lambda: a_stream().say(thinking="hm").say(thinking=" so").say("Hello").say(end=StreamEnd(usage=USAGE)),
    "thinking_and_text_at_once": lambda: a_stream().say("He", thinking="hm").say("llo").say(end=StreamEnd(usage=USAGE)),
    "tools": lambda: (
        a_stream()
        .say(thinking="hm")
        .say("I look")
        .say(tool_calls=CALLS[:1])
        .say(tool_calls=CALLS[1:], end=StreamEnd(usage=USAGE))
    ),
    "text_after_a_tool": lambda: a_stream().say(tool_calls=CALLS).say("done", end=StreamEnd(usage=USAGE)),
    "nothing": lambda: a_stream().say(end=StreamEnd(usage=USAGE)),
    "broken": lambda: a_stream().say("Hel").fail(EngineFailed()),
}


async def streamed(gateway: Gateway, script: ScriptedStream, **asked: Any) -> bytes:
    gateway.play = lambda _task: script
    async with gateway.client() as http:
        response = await http.post("/v1/messages", json={**BODY, "stop_sequences": ["END"], **asked})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    return response.content


def _split(content: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in content.split(b"\n\n")[:-1]]


def read_events(content: bytes) -> list[dict[str, Any]]:
    """The data of each, which names its event again."""
    events = []
    for event in _split(content):
        name, data = event.decode().splitlines()[:2]
        events.append(orjson.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


@pytest.mark.parametrize("name", SCRIPTS)
async def test_golden(gateway: Gateway, name: str) -> None:
    assert await streamed(gateway, SCRIPTS[name]()) == (GOLDEN / f"messages_{name}.txt").read_bytes()


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_event_is_one_of_anthropics(name: str) -> None:
    events = read_events((GOLDEN / f"messages_{name}.txt").read_bytes())
    for event in events:
        if event["type"] not in ("ping", "error"):
            EVENT.validate_python(event, strict=True)
    starts = [event["index"] for event in events if event["type"] == "content_block_start"]
    assert starts == [event["index"] for event in events if event["type"] == "content_block_stop"] or name == "broken"
    assert starts == list(range(len(starts)))


async def test_thinking_that_is_not_to_be_shown(gateway: Gateway) -> None:
    script = a_stream().say(thinking="hm").say(thinking=" so").say("Hello", end=StreamEnd(usage=USAGE))
    content = await streamed(gateway, script, thinking={"type": "enabled", "display": "omitted"})
    shown = (GOLDEN / "messages_thinking.txt").read_bytes()
    assert content == b"".join(event for event in _split(shown) if b"thinking_delta" not in event)


def test_a_silence_is_broken_by_a_ping() -> None:
    assert read_events(Events.silence) == [{"type": "ping"}]
