"""The bare hops and the suite, as processes of their own on the same servers."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp

from tests.fixtures.otlp import running_collector
from tests.fixtures.ports import free_port
from tests.fixtures.suite import ROOT, Suite, a_suite, eventually
from tests.load.cpu import CpuMeter
from tests.load.scenarios import Target
from tests.load.servers import Servers

SLOTS = 256
"""More than any scenario has clients: what waits for a slot measures the scenario, not the path."""

TRACED_SHARE = 0.1


@contextmanager
def running_process(module: str, *arguments: str, **environment: str) -> Iterator[int]:
    """``python -m module`` until the block is left; yields its pid."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, env={**os.environ, **environment})
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


async def answers(url: str) -> bool:
    """Whether an HTTP server is there, whatever it says."""
    try:
        async with aiohttp.ClientSession() as session, session.get(url, timeout=aiohttp.ClientTimeout(total=2)):
            return True
    except (aiohttp.ClientError, TimeoutError):
        return False


@asynccontextmanager
async def bare_hops(servers: Servers) -> AsyncIterator[Target]:
    port = str(free_port())
    environment = {"RABBITMQ_URL": servers.rabbitmq_url, "REDIS_URL": servers.redis_url, "PORT": port}
    module = "tests.load.bare_hops"
    with (
        running_process(module, "http", **environment) as http,
        running_process(module, "dispatcher", **environment) as dispatcher,
        running_process(module, "worker", **environment) as worker,
    ):
        url = f"http://127.0.0.1:{port}"
        await eventually(lambda: answers(url), "the bare hops answer")
        pids = {"gateway": [http], "scheduler": [dispatcher], "worker": [worker], **servers.pids("rabbitmq", "redis")}
        yield Target("bare hops", url, "bare", "bare-50", CpuMeter(pids))


@contextmanager
def mock_upstreams() -> Iterator[str]:
    """The worker's upstreams setting for ``mock``, which is quick, and ``mock-50``."""
    ports = {"mock": free_port(), "mock-50": free_port()}
    module = "tests.fixtures.mock_upstream"
    with (
        running_process(module, "--port", str(ports["mock"])),
        running_process(module, "--port", str(ports["mock-50"]), "--tokens-per-second", "50"),
    ):
        yield json.dumps([{"pattern": name, "base_url": f"http://127.0.0.1:{port}/v1"} for name, port in ports.items()])


@asynccontextmanager
async def real_path(servers: Servers, directory: Path) -> AsyncIterator[list[Target]]:
    """Over ``echo`` and over ``openai_http``: with an API key, limits, books, metrics and sampled traces."""
    with mock_upstreams() as upstreams, running_collector() as (otlp_endpoint, _):
        suite = a_suite(
            directory,
            servers.rabbitmq_url,
            servers.redis_url,
            dict(servers.postgres_urls),
            workers=0,
            OTEL_EXPORTER_OTLP_ENDPOINT=otlp_endpoint,
            OTEL_TRACES_SAMPLER_ARG=str(TRACED_SHARE),
        )
        suite.processes["registry"].environment["REGISTRY_SEED_MODELS"] = "{}"  # no model of ours is measured
        suite.add_worker(slots=str(SLOTS), slots_per_model=str(SLOTS), upstreams=upstreams)
        async with suite.running():
            login = {"email": "admin@localhost", "password": suite.admin_password}
            headers = {"Authorization": f"Bearer {await _api_key(suite, login)}"}
            meter = CpuMeter({**_suite_pids(suite), **servers.pids("rabbitmq", "redis", "postgres")})
            yield [
                Target("real path, echo", suite.url, "echo", "echo-50", meter, headers, login),
                Target("real path, openai_http", suite.url, "mock", "mock-50", meter, headers, login),
            ]


def _suite_pids(suite: Suite) -> dict[str, list[int]]:
    return {process.service: [process.popen.pid] for process in suite.processes.values() if process.popen}


async def _api_key(suite: Suite, login: Mapping[str, str]) -> str:
    async with aiohttp.ClientSession(suite.url, raise_for_status=True) as session:
        async with session.post("/api/v1/auth/login", json=dict(login)) as response:
            token = (await response.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with session.post("/api/v1/keys", json={"name": "benchmark"}, headers=headers) as response:
            return str((await response.json())["key"])
