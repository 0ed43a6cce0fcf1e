import asyncio
import sys
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common.tasks import Tasks
from libs.common.web import HttpServer
from services.worker.blobs.files import BlobFiles
from tests.fixtures.blob_sources import CHUNKS, CONTENT, DIGEST, BlobServer
from tests.fixtures.fetching_process import fetch
from tests.fixtures.suite import ROOT, eventually


async def test_a_fetch_goes_on_after_kill_9(tmp_path: Path) -> None:
    files, server, last_is_free = BlobFiles.of(tmp_path, DIGEST), BlobServer("registry", "token"), asyncio.Event()

    async def serve(request: Request) -> Response:
        response = await server.serve(request)
        if server.chunks[-1] == CHUNKS - 1:
            await last_is_free.wait()
        return response

    async def all_but_one_arrived() -> bool:
        return files.arrived.exists() and files.arrived.read_bytes() == b"\1\1\0"

    app = Starlette(routes=[Route("/blob", serve)])
    async with HttpServer.running(app, "127.0.0.1", 0, Tasks().start) as port:
        url = f"http://127.0.0.1:{port}/blob"
        command = [sys.executable, "-m", "tests.fixtures.fetching_process", str(tmp_path), url, server.token]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
        try:
            await eventually(all_but_one_arrived, "the first chunks are there", 30)
        finally:
            process.kill()
            await process.wait()
        server.chunks.clear()
        last_is_free.set()
        path = await fetch(tmp_path, url, server.token)
    assert path.read_bytes() == CONTENT
    assert server.chunks == [CHUNKS - 1]
