"""Which silence of an engine means that it hangs: that of the process, not that of one request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from libs.common.errors import EngineFailed
from services.worker.engines import llama_process
from services.worker.engines.llama_process import LlamaProcess

SILENCE_SECONDS = 2.0

TALKS_SECONDS = 6.0

CHILD = f"""
import http.server, json, sys, threading, time

talked = threading.Event()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        if self.path == "/never":
            time.sleep(3600)
        self.send_response(200)
        self.end_headers()
        if self.path == "/prompt":
            until = time.monotonic() + {TALKS_SECONDS}
            while time.monotonic() < until:
                self.say(False)
                time.sleep(0.1)
            talked.set()
        else:
            talked.wait()
        self.say(True)

    def say(self, stop):
        self.wfile.write(b"data: " + json.dumps({{"stop": stop}}).encode() + b"\\n\\n")
        self.wfile.flush()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
sys.stdin.readline()
print(json.dumps({{"address": f"http://127.0.0.1:{{server.server_port}}"}}), flush=True)
server.serve_forever()
"""


@pytest.fixture
async def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LlamaProcess]:
    program = tmp_path / "child.py"
    program.write_text(CHILD)
    monkeypatch.setattr(llama_process, "CHILD_PROGRAM", program)
    process = await LlamaProcess.start({}, 30, SILENCE_SECONDS)
    yield process
    await process.close()


async def said(process: LlamaProcess, path: str) -> int:
    async with aclosing(process.stream(path, {})) as events:
        return len([event async for event in events])


async def test_who_waits_behind_a_long_prompt_does_not_end_the_engine(process: LlamaProcess) -> None:
    async with asyncio.TaskGroup() as calls:
        first = calls.create_task(said(process, "/prompt"))
        behind = calls.create_task(said(process, "/behind"))
    assert first.result() > 2
    assert behind.result() == 1
    assert process.failure() is None


async def test_an_engine_that_is_silent_to_all_is_killed(process: LlamaProcess) -> None:
    await said(process, "/prompt")
    with pytest.raises(EngineFailed, match=f"silent for {SILENCE_SECONDS:g} seconds"):
        await said(process, "/never")


async def test_what_the_model_works_at_in_one_go_has_patience_of_its_own(process: LlamaProcess) -> None:
    streams = asyncio.create_task(said(process, "/prompt"))
    with pytest.raises(EngineFailed, match=f"silent for {TALKS_SECONDS / 2:g} seconds"):
        await process.work("/never", {}, TALKS_SECONDS / 2)
    assert await streams > 2, "as long as it speaks it is alive"
