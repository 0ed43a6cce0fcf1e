"""What tests of other people's clients have in common."""

import asyncio
from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import Any

from tests.fixtures.suite import Suite, eventually

Ask = Callable[..., Awaitable[Any]]
"""Calls a method of a client by its name, as ``messages.create``. What it streams comes back as a list."""

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
CALLED_WITH = {"city": "a0", "days": 1}
"""What the echo engine calls a tool of such parameters with."""


def words(count: int) -> str:
    """What the echo engine says."""
    return " ".join(f"w{number}" for number in range(count))


def ask_of(client: Any) -> Ask:
    """Of a client of either kind: one that does not await is given a thread."""
    is_async = type(client).__name__.startswith("Async")

    def ask_sync(method: str, *args: Any, **fields: Any) -> Any:
        answer = attrgetter(method)(client)(*args, **fields)
        return list(answer) if fields.get("stream") else answer

    async def ask(method: str, *args: Any, **fields: Any) -> Any:
        if not is_async:
            return await asyncio.to_thread(ask_sync, method, *args, **fields)
        answer = await attrgetter(method)(client)(*args, **fields)
        return [part async for part in answer] if fields.get("stream") else answer

    return ask


async def slots_are_free(suite: Suite) -> None:
    """Whoever went away takes no worker's time."""

    async def is_so() -> bool:
        workers = [name for name, process in suite.processes.items() if process.service == "worker"]
        return not any([await suite.metric(name, "worker_requests_running") for name in workers])

    await eventually(is_so, "the slots are free")


async def a_key(suite: Suite, **fields: Any) -> str:
    """A new key of the first admin's, with ``limits`` or ``scopes``."""
    async with suite.admin() as admin:
        made = await admin.post("/api/v1/keys", json={"name": "of a client", **fields})
    assert made.status_code == 201, made.text
    return str(made.json()["key"])
