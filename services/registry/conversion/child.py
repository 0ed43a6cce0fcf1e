"""Runs the programs of this package."""

import asyncio
import os
import resource
import signal
import sys
from asyncio import StreamReader
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

import services
from libs.common.errors import DeadlineExceeded, InvalidRequest, ServiceError

log = structlog.get_logger(__name__)

LONGEST_SECONDS: Final = 6 * 3600.0
KEPT_OUTPUT_BYTES: Final = 4096
ROOT: Final = Path(next(iter(services.__path__))).parent


async def run(
    arguments: Sequence[str | Path], on_line: Callable[[str], None], *, memory_bytes: int, not_understood: str
) -> None:
    """``python arguments...``; ends with its caller. ``on_line`` gets what it writes to stdout.

    Raises ``InvalidRequest`` with the text ``not_understood`` if it fails: these programs read what clients sent.
    ``ServiceError`` if it is killed, ``DeadlineExceeded``.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments,
        stdin=DEVNULL, stdout=PIPE, stderr=PIPE,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ.get("PATH", "")},  # it reads strangers' files: no secrets
        start_new_session=True,
    )  # fmt: skip
    with suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(LONGEST_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(_follow(process.stdout, on_line))
            errors = group.create_task(_last_bytes(process.stderr))
            code = await process.wait()
    except TimeoutError as error:
        raise DeadlineExceeded(f"the conversion was not done in {LONGEST_SECONDS:g} seconds") from error
    finally:
        await _end(process)
    if code == 0:
        return
    log.warning("a conversion failed", code=code, output=errors.result().decode(errors="replace"))
    raise InvalidRequest(not_understood) if code > 0 else ServiceError("the conversion was killed")


async def _follow(stream: StreamReader, on_line: Callable[[str], None]) -> None:
    while line := await stream.readline():
        on_line(line.decode(errors="replace").rstrip())


async def _last_bytes(stream: StreamReader) -> bytes:
    kept = b""
    while chunk := await stream.read(65536):
        kept = (kept + chunk)[-KEPT_OUTPUT_BYTES:]
    return kept


async def _end(process: Process) -> None:
    """With all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
