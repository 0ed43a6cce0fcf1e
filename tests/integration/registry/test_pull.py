"""Pulls, from the gateway's command to the model that answers to its name."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import SecretStr

from libs.common.bus.base import Bus, Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.gateway import OperationCancelled
from libs.common.contracts.registry import (
    CreateModel,
    ListModels,
    OperationReported,
    Progress,
    PullModel,
    ResolveModel,
)
from libs.common.errors import ModelNotFound
from services.registry import imports
from services.registry.context import Context
from services.registry.settings import Settings
from tests.fixtures.buses import eventually
from tests.fixtures.fake_registry import FakeRegistry
from tests.integration.registry.conftest import BLOB_TOKEN, running_registry


@dataclass
class Gateway:
    """Sends pulls and hears of them."""

    bus: Bus
    heard: dict[str, list[OperationReported]] = field(default_factory=dict)

    async def begin(self, name: str, *, insecure: bool = True) -> str:
        operation = uuid4().hex
        self.heard[operation] = []
        await self.bus.send(PullModel(operation_id=operation, name=name, insecure=insecure))
        return operation

    async def pull(self, name: str, *, insecure: bool = True) -> tuple[list[Progress], str]:
        """What was told, and the error."""
        operation = await self.begin(name, insecure=insecure)
        await eventually(lambda: self.ended(operation), seconds=30)
        error = self.heard[operation][-1].error
        return self.told(operation), error.message if error else ""

    def ended(self, operation: str) -> bool:
        return any(report.finished for report in self.heard[operation])

    def told(self, operation: str) -> list[Progress]:
        return [progress for report in self.heard[operation] for progress in report.progress]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "registry",
        blob_token=SecretStr(BLOB_TOKEN),
        allow_private_hosts=("127.0.0.1", "hf.co"),
        part_min_bytes=100_000,
    )


@pytest.fixture
async def there() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry().running() as registry:
        yield registry


@pytest.fixture
def manifest(there: FakeRegistry, tiny_bytes: bytes) -> bytes:
    there.add_model("ns/tiny:q4", tiny_bytes)
    return there.manifests["ns/tiny:q4"]


@pytest.fixture
async def gateway(broker: MemoryBroker, ctx: Context) -> AsyncIterator[Gateway]:
    async with MemoryBus.open(broker, "gateway", "g1") as bus:
        gateway, listening = Gateway(bus), Handlers("gateway")

        @listening.on(OperationReported, every_replica=True)
        async def reported(event: OperationReported, _ctx: object) -> None:
            gateway.heard[event.operation_id].append(event)

        await bus.subscribe(listening, None)
        yield gateway


def layers_of(manifest: bytes) -> list[tuple[str, int]]:
    document = json.loads(manifest)
    return [(layer["digest"], layer["size"]) for layer in (*document["layers"], document["config"])]


async def test_a_pull(ctx: Context, gateway: Gateway, there: FakeRegistry, manifest: bytes, changes: list[str]) -> None:
    name = f"{there.host}/ns/tiny:q4"
    told, error = await gateway.pull(name)
    assert error == ""
    statuses = list(dict.fromkeys(progress.status for progress in told))
    pulling = [f"pulling {digest[7:19]}" for digest, _ in layers_of(manifest)]
    last = ["verifying sha256 digest", "writing manifest", "success"]
    assert statuses == ["pulling manifest", *pulling, *last]
    for digest, size in layers_of(manifest):
        counts = [progress.completed for progress in told if progress.digest == digest]
        assert counts == sorted(counts)
        assert counts[-1] == size
        assert {progress.total for progress in told if progress.digest == digest} == {size}
    assert (await gateway.bus.ask(ResolveModel(name=name))).name == name
    assert (ctx.settings.data_dir / "manifests" / there.host / "ns" / "tiny" / "q4").read_bytes() == manifest
    await eventually(lambda: changes == [name])


async def test_what_is_here_is_not_fetched_again(gateway: Gateway, there: FakeRegistry, manifest: bytes) -> None:
    await gateway.pull(f"{there.host}/ns/tiny:q4")
    there.seen.clear()
    told, error = await gateway.pull(f"http://{there.host}/ns/tiny:q4")
    assert error == ""
    assert [seen.path for seen in there.seen] == ["/v2/ns/tiny/manifests/q4"]
    cached = [(progress.digest, progress.total, progress.completed) for progress in told if progress.digest]
    assert cached == [(digest, size, size) for digest, size in layers_of(manifest)]


@pytest.mark.parametrize(
    "case",
    [
        ("{host}/ns/other", True, "pull model manifest: file does not exist"),
        ("http://{host}/ns/tiny:q4", False, "insecure protocol http"),
        ("ftp://{host}/ns/tiny:q4", True, "invalid model name"),
        ("{host}/ns/ti ny", True, "invalid model name"),
        ("127.0.0.2/ns/tiny:q4", True, "127.0.0.2 is not on a public address"),
    ],
)
async def test_what_cannot_be_pulled(
    gateway: Gateway, there: FakeRegistry, manifest: bytes, case: tuple[str, bool, str]
) -> None:
    name, insecure, expected = case
    _, error = await gateway.pull(name.format(host=there.host), insecure=insecure)
    assert error.startswith(expected)
    assert await gateway.bus.ask(ListModels()) == ()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"nonsense", "pull model manifest: invalid manifest"),
        (b" " * (2 << 20), "pull model manifest: 127.0.0.1 sent more than 1048576 bytes"),
    ],
)
async def test_what_is_no_manifest(gateway: Gateway, there: FakeRegistry, content: bytes, expected: str) -> None:
    there.manifests["ns/odd:latest"] = content
    assert (await gateway.pull(f"{there.host}/ns/odd"))[1] == expected


async def test_more_than_is_allowed(gateway: Gateway, there: FakeRegistry, manifest: bytes) -> None:
    document = json.loads(manifest)
    document["layers"][0]["size"] = 1 << 60
    there.manifests["ns/huge:latest"] = json.dumps(document).encode()
    assert "more than the" in (await gateway.pull(f"{there.host}/ns/huge"))[1]
    assert there.asked("GET", "/blobs/") == []


async def test_a_token_on_demand(gateway: Gateway, there: FakeRegistry, manifest: bytes) -> None:
    there.token = "secret"
    assert (await gateway.pull(f"{there.host}/ns/tiny:q4"))[1] == ""
    assert len(there.asked("GET", "/token")) == 1
    assert {seen.authorization for seen in there.asked("GET", "/blobs/")} == {"Bearer secret"}


async def test_a_token_that_is_refused(gateway: Gateway, there: FakeRegistry, manifest: bytes) -> None:
    there.token, there.token_needs = "secret", "Basic nobody-has-it"
    expected = "pull model manifest: unauthorized: access denied"
    assert (await gateway.pull(f"{there.host}/ns/tiny:q4"))[1] == expected


async def test_a_realm_where_nobody_should_go(gateway: Gateway, there: FakeRegistry, manifest: bytes) -> None:
    there.token, there.realm = "secret", "http://169.254.169.254/token"
    error = (await gateway.pull(f"{there.host}/ns/tiny:q4"))[1]
    assert error.startswith("169.254.169.254 is not on a public address")


async def test_a_cancelled_pull_stops_and_the_next_one_goes_on(
    gateway: Gateway, there: FakeRegistry, manifest: bytes, tiny_bytes: bytes
) -> None:
    there.silent_after = [50_000] * 16
    name = f"{there.host}/ns/tiny:q4"
    operation = await gateway.begin(name)
    await eventually(lambda: any(progress.completed for progress in gateway.told(operation)))
    await gateway.bus.publish(OperationCancelled(operation_id=operation))
    await eventually(lambda: gateway.ended(operation))
    end = gateway.heard[operation][-1].error
    assert end is not None
    assert end.code == "request_cancelled"
    with pytest.raises(ModelNotFound):
        await gateway.bus.ask(ResolveModel(name=name))
    there.silent_after.clear()
    assert (await gateway.pull(name))[1] == ""


async def test_creates_that_wait_for_their_bases_hold_up_no_other(
    ctx: Context, gateway: Gateway, tiny_gguf: Path
) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)

    async def begin_create(base: str) -> str:
        operation = uuid4().hex
        gateway.heard[operation] = []
        await gateway.bus.send(CreateModel(operation_id=operation, name="made", base=base))
        return operation

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        waiting = [await begin_create(f"127.0.0.1:{port}/ns/base{number}") for number in range(5)]
        made = await begin_create("tiny")
        await eventually(lambda: gateway.ended(made))
        assert gateway.told(made)[-1].status == "success"
        assert not any(gateway.ended(operation) for operation in waiting)
        for operation in waiting:
            ctx.operations.cancel(operation)
        await eventually(lambda: all(gateway.ended(operation) for operation in waiting))


async def test_another_registry_goes_on_when_one_dies(
    gateway: Gateway,
    ctx: Context,
    broker: MemoryBroker,
    there: FakeRegistry,
    manifest: bytes,
) -> None:
    there.silent_after = [50_000] * 16
    name = f"{there.host}/ns/tiny:q4"
    operation = await gateway.begin(name)
    await eventually(lambda: any(progress.completed for progress in gateway.told(operation)))
    there.silent_after.clear()
    async with running_registry(ctx.settings, ctx.db, broker, "r2"):
        assert isinstance(ctx.bus, MemoryBus)
        ctx.bus.disconnect()
        await ctx.operations.hand_over(5)
        await eventually(lambda: gateway.ended(operation), seconds=30)
        assert gateway.heard[operation][-1].error is None
        assert (await gateway.bus.ask(ResolveModel(name=name))).name == name


class HuggingFace(AbstractResolver):
    """Knows where hf.co is, in this test."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self.system.resolve("127.0.0.1", self.port)
        return [ResolveResult(**{**result, "hostname": host}) for result in found if host == "hf.co"]

    async def close(self) -> None: ...


async def test_hugging_face(
    broker: MemoryBroker, ctx: Context, gateway: Gateway, there: FakeRegistry, tiny_bytes: bytes
) -> None:
    there.add_model("Org/Tiny-GGUF:Q4_K_M", tiny_bytes)
    await ctx.bus.stop_consuming()
    resolver = HuggingFace(there.port)
    async with running_registry(ctx.settings, ctx.db, broker, "r2", resolver) as other:
        assert (await gateway.pull("http://hf.co/Org/Tiny-GGUF:Q4_K_M"))[1] == ""
        assert {seen.host for seen in there.seen} == {"hf.co"}
        ref = await other.bus.ask(ResolveModel(name="hf.co/Org/Tiny-GGUF:Q4_K_M"))
        assert ref.name == "hf.co/Org/Tiny-GGUF:Q4_K_M"
