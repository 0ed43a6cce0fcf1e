"""An answer made of several requests, and one that is silent for long."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from libs.common.contracts.tokens import Frame, StreamEnd
from libs.common.errors import EngineFailed, ServiceError, StreamLost
from services.gateway.api import answer
from services.gateway.api.answer import Requests, StreamedAnswer
from tests.fixtures.gateway import END, ScriptedStream


class Plain:
    """A line for each thing that is to be told."""

    media_type = "text/plain"

    def __init__(self, silence: bytes = b"") -> None:
        self.silence = silence

    def opening(self, request_id: str) -> bytes:
        return f"<{request_id}\n".encode()

    def chunk(self, frame: Frame, choice: int) -> bytes:
        return f"{choice} {frame.text}\n".encode() if frame.text else b""

    def last(self, frame: Frame, end: StreamEnd, choice: int) -> bytes:
        return f"{choice} {frame.text}{end.done_reason}\n".encode()

    def closing(self) -> bytes:
        return b">"

    def broken(self, error: ServiceError) -> bytes:
        return f"! {error.code}".encode()


class Client:
    def __init__(self) -> None:
        self.body = b""
        self.got = asyncio.Event()
        self.complete = False

    async def send(self, message: Any) -> None:
        assert not self.complete
        self.body += message.get("body", b"")
        self.complete = message["type"] == "http.response.body" and not message["more_body"]
        self.got.set()


async def received(streams: Sequence[ScriptedStream], client: Client, silence: bytes = b"") -> str:
    requests = Requests(streams)
    frames = requests.frames()
    response = StreamedAnswer(requests, await anext(frames), frames, Plain(silence))
    await response({"type": "http"}, _never, client.send)
    assert client.complete
    assert all(stream.closed.is_set() for stream in streams)
    return client.body.decode()


async def _never() -> Any:
    await asyncio.Event().wait()


async def test_choices_come_as_they_are_made_each_in_its_order() -> None:
    streams = [ScriptedStream(f"r{number}").say("a").say("b").say("c", end=END) for number in range(3)]
    lines = (await received(streams, Client())).splitlines()
    assert (lines[0], lines[-1]) == ("<r0", ">")
    for number in range(3):
        assert [line for line in lines if line.startswith(str(number))] == [
            f"{number} {x}" for x in ("a", "b", "cstop")
        ]


async def test_a_choice_that_waits_holds_up_no_other() -> None:
    slow, quick, client = ScriptedStream(), ScriptedStream().say("a").say("b", end=END), Client()
    answering = asyncio.create_task(received([slow, quick], client))
    while b"1 bstop" not in client.body:
        client.got.clear()
        await client.got.wait()
    slow.say("late", end=END)
    assert (await answering).endswith("0 latestop\n>")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("error", [EngineFailed(), StreamLost()], ids=lambda error: error.code)
async def test_one_that_fails_ends_the_whole_answer(count: int, error: ServiceError) -> None:
    broken = ScriptedStream().say("a")
    broken.stop() if isinstance(error, StreamLost) else broken.fail(error)
    others = [ScriptedStream().say("x") for _ in range(count - 1)]
    assert (await received([broken, *others], Client())).endswith(f"! {error.code}")


async def test_silence_is_broken_where_a_dialect_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "SILENCE_SECONDS", 0.01)
    stream, client = ScriptedStream().say("a"), Client()
    answering = asyncio.create_task(received([stream], client, b"...\n"))
    while client.body.count(b"...") < 2:
        client.got.clear()
        await client.got.wait()
    stream.say("b", end=END)
    text = (await answering).splitlines()
    assert [line for line in text if line != "..."] == [text[0], "0 a", "0 bstop", ">"]


async def test_frames_that_say_nothing_are_a_silence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "SILENCE_SECONDS", 0.01)
    stream, client = ScriptedStream().say("a"), Client()
    answering = asyncio.create_task(received([stream], client, b"...\n"))
    while b"..." not in client.body:
        stream.say(thinking="hm")
        await asyncio.sleep(0)
    stream.say("b", end=END)
    assert (await answering).endswith("0 bstop\n>")
