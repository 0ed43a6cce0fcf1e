"""A child process that serves one model, and the requests made of it."""

import asyncio
import secrets
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Self

import httpx
import msgspec
import orjson
import structlog

from libs.common.errors import ContextExceeded, EngineFailed, InvalidRequest, ModelLoadFailed, UnsupportedByModel
from services.worker.engines.openai_wire import error_text, server_sent_json

log = structlog.get_logger(__name__)

KEPT_OUTPUT_BYTES: Final = 4096
CHILD_PROGRAM: Final = Path(__file__).with_name("llama_child.py")

WATCHED: Final = httpx.Timeout(None, connect=10)

WAKE_SECONDS: Final = 1.0
"""If it was we who were stopped, this is time enough to read what it has said meanwhile."""


class LlamaProcess:
    """Made by ``start``. Every call raises ``EngineFailed`` once the process is gone.

    The server reports after each batch of a prompt and after each token. One that works and says nothing to anybody for
    ``silence_seconds`` is stuck, and killed. A single request may well wait for longer: for the prompts of others.
    """

    def __init__(self, process: Process, api_key: str, silence_seconds: float) -> None:
        self._process = process
        self._api_key = api_key
        self.silence_seconds = silence_seconds
        self._client: httpx.AsyncClient | None = None
        self._output = b""
        self._closing = False
        self._failure: str | None = None
        self._heard_at = 0.0
        self._vocabulary_size = 0
        self._patience: dict[object, float] = {}
        """Of each call that the model works at: how many seconds it may do so in silence."""

        self._watch = asyncio.create_task(self._watch_output(), name=f"watch llama child {process.pid}")
        self._listener = asyncio.create_task(self._kill_when_silent(), name=f"listen to llama child {process.pid}")

    @classmethod
    async def start(cls, config: dict[str, Any], timeout: float, silence_seconds: float = 60.0) -> Self:
        """``config`` as of ``ChildConfig``, without its key. Raises ``ModelLoadFailed``."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(CHILD_PROGRAM),
            stdin=PIPE, stdout=PIPE, stderr=PIPE,
            start_new_session=True,  # a Ctrl-C is for the worker, which drains; it must not reach us
        )  # fmt: skip
        child = cls(process, secrets.token_urlsafe(32), silence_seconds)
        try:
            async with asyncio.timeout(timeout):
                await child._introduce(config)
        except TimeoutError as error:
            await child.close()
            raise ModelLoadFailed(f"the model was not loaded in {timeout:g} seconds") from error
        except BaseException:
            await child.close()
            raise
        return child

    async def _introduce(self, config: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(config | {"api_key": self._api_key}) + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            await asyncio.wait({self._watch})
            raise ModelLoadFailed(f"the model could not be loaded: {self._last_lines()}")
        self._client = httpx.AsyncClient(
            base_url=orjson.loads(line)["address"],
            headers={"Authorization": f"Bearer {self._api_key}"},
            timeout=httpx.Timeout(self.silence_seconds, connect=10),
            # The server drops idle connections without a word: each request gets a fresh one.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )

    async def _watch_output(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(65536):
            self._output = (self._output + chunk)[-KEPT_OUTPUT_BYTES:]
            log.debug("llama.cpp", pid=self._process.pid, output=chunk.decode(errors="replace"))
        code = await self._process.wait()
        self._listener.cancel()
        self._failure = self._failure or f"its process ended ({_describe_exit(code)})"
        if not self._closing:
            log.warning("a llama.cpp process ended", pid=self._process.pid, why=self._last_lines())

    async def _kill_when_silent(self) -> None:
        while (seconds := self._patience_left()) > 0:
            await asyncio.sleep(seconds)
            if self._patience_left() == 0:
                await asyncio.sleep(WAKE_SECONDS)
        self._fail_silent(max(self._patience.values()))

    def _patience_left(self) -> float:
        """In seconds; as long as it does not work it may be silent."""
        if not self._patience:
            return self.silence_seconds
        return max(0.0, self._heard_at + max(self._patience.values()) - time.monotonic())

    @contextmanager
    def _working(self, patience: float) -> Iterator[None]:
        call = object()
        if not self._patience:
            self._heard_at = time.monotonic()
        self._patience[call] = patience
        try:
            yield
        finally:
            del self._patience[call]

    def _last_lines(self) -> str:
        return " | ".join(self._output.decode(errors="replace").strip().splitlines()[-5:])

    @property
    def pid(self) -> int:
        return self._process.pid

    def failure(self) -> str | None:
        return self._failure

    def private_bytes(self) -> int:
        """Memory of its own, beside the mapped weights: caches and buffers. 0 where the system does not tell."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))

    async def ask(self, path: str, body: object) -> Any:
        """The JSON answer to a POST of what the server knows by itself, without the model."""
        async with self._engine_errors():
            response = await self._http.post(path, content=orjson.dumps(body))
        return _answer(response)

    async def vocabulary_size(self) -> int:
        """In tokens. The server is asked once."""
        if not self._vocabulary_size:
            async with self._engine_errors():
                response = await self._http.get("/v1/models")
            self._vocabulary_size = _answer(response)["data"][0]["meta"]["n_vocab"]
        return self._vocabulary_size

    async def work(self, path: str, body: object, patience: float) -> Any:
        """The JSON answer to a POST at which the model works, in silence for at most ``patience`` seconds."""
        with self._working(patience):
            async with self._engine_errors():
                response = await self._http.post(path, content=orjson.dumps(body), timeout=WATCHED)
                self._heard_at = time.monotonic()
        return _answer(response)

    async def stream(self, path: str, body: object) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a streamed answer. Closing it closes the connection, which ends the work."""
        content = orjson.dumps(body)
        with self._working(self.silence_seconds):
            async with (
                self._engine_errors(),
                self._http.stream("POST", path, content=content, timeout=WATCHED) as response,
            ):
                if response.status_code != 200:
                    raise _refusal(response.status_code, await response.aread())
                async with aclosing(server_sent_json(response)) as events:
                    async for event in events:
                        self._heard_at = time.monotonic()
                        if "error" in event:
                            raise _refusal(event["error"].get("code", 500), orjson.dumps(event))
                        yield event

    @property
    def _http(self) -> httpx.AsyncClient:
        if self._client is None or self._failure is not None:
            raise EngineFailed(f"the engine of the model is gone: {self._failure or 'it was closed'}")
        return self._client

    @asynccontextmanager
    async def _engine_errors(self) -> AsyncIterator[None]:
        """A process that breaks a connection is dying, and one that is silent is stuck: both failed."""
        try:
            yield
        except httpx.TimeoutException as error:
            self._fail_silent(self.silence_seconds)
            raise EngineFailed(f"the engine failed: {self._failure}") from error
        except httpx.TransportError as error:
            await asyncio.wait({self._watch}, timeout=1)
            raise EngineFailed(f"the engine failed: {self._failure or error!r}") from error

    def _fail_silent(self, seconds: float) -> None:
        self._failure = f"it was silent for {seconds:g} seconds"
        self._kill()

    def _kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def close(self) -> None:
        """Nothing in it is worth saving, so it is killed. Safe to call twice."""
        self._closing = True
        self._kill()
        if self._client is not None:
            await self._client.aclose()
        await asyncio.wait({self._watch})


def _describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _answer(response: httpx.Response) -> Any:
    if response.status_code != 200:
        raise _refusal(response.status_code, response.content)
    return orjson.loads(response.content)


def _refusal(status: int, body: bytes) -> InvalidRequest | EngineFailed:
    text = error_text(body)
    if b"exceed_context_size_error" in body or b"is too large to process" in body:
        return ContextExceeded(text)
    if b"not_supported_error" in body or b"input is not supported" in body:
        return UnsupportedByModel(text)
    return InvalidRequest(text) if 400 <= status < 500 else EngineFailed(f"the engine failed: {text}")
