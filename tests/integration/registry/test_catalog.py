import asyncio
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.message import Event
from libs.common.contracts.registry import DescribeModel, ListModels, LocateBlob, ResolveModel
from libs.common.contracts.worker import VirtualModel
from libs.common.errors import InvalidModelName, InvalidRequest, ModelNotFound, NotFound, Unavailable
from services.registry import imports
from services.registry.context import Context
from tests.fixtures.builders import a_heartbeat
from tests.fixtures.buses import eventually
from tests.fixtures.tiny_gguf import CHAT_TEMPLATE, CONTEXT_LENGTH


def manifest_file(ctx: Context, *parts: str) -> Path:
    return ctx.settings.data_dir.joinpath("manifests", *parts)


@pytest.mark.parametrize(
    "asked", ["tiny", "tiny:latest", "TINY", "library/tiny", "registry.ollama.ai/library/tiny:latest"]
)
async def test_an_imported_model_resolves(
    ctx: Context, bus: Bus, tiny_gguf: Path, tiny_bytes: bytes, asked: str
) -> None:
    assert await imports.import_gguf(ctx, "tiny", tiny_gguf)
    ref = await bus.ask(ResolveModel(name=asked))
    assert (ref.name, ref.engine, ref.context_length) == ("tiny:latest", "llama_cpp", CONTEXT_LENGTH)
    assert ref.capabilities == ("completion",)
    assert ref.weights is not None
    assert ctx.blobs.path(ref.weights).samefile(tiny_gguf)
    assert ref.size > len(tiny_bytes), "config and weights"
    assert ref.kv_bytes_per_token > 0


async def test_manifest_and_blobs_lie_as_ollama_lays_them(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    await imports.import_gguf(ctx, "me/Tiny:Q4", tiny_gguf)
    content = manifest_file(ctx, "registry.ollama.ai", "me", "Tiny", "Q4").read_bytes()
    assert hashlib.sha256(content).hexdigest() == (await bus.ask(ResolveModel(name="me/tiny:q4"))).digest
    manifest = json.loads(content)
    assert manifest["schemaVersion"] == 2
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == "application/vnd.ollama.image.model"
    for part in (manifest["config"], layer):
        blob = ctx.settings.data_dir / "blobs" / part["digest"].replace(":", "-")
        assert blob.stat().st_size == part["size"]
        assert f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}" == part["digest"]
    config = json.loads(ctx.blobs.path(manifest["config"]["digest"]).read_bytes())
    assert (config["model_format"], config["model_family"], config["file_type"]) == ("gguf", "llama", "F32")


async def test_importing_again_changes_nothing(ctx: Context, bus: Bus, tiny_gguf: Path, changes: list[str]) -> None:
    assert await imports.import_gguf(ctx, "tiny", tiny_gguf)
    before = await bus.ask(ListModels())
    assert not await imports.import_gguf(ctx, "Tiny:Latest", tiny_gguf)
    assert await bus.ask(ListModels()) == before
    await eventually(lambda: changes == ["tiny:latest"])


async def test_a_name_moves_to_other_weights(
    ctx: Context, bus: Bus, tiny_gguf: Path, other_gguf: Path, changes: list[str]
) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    before = await bus.ask(ResolveModel(name="tiny"))
    assert await imports.import_gguf(ctx, "TINY", other_gguf)
    after = await bus.ask(ResolveModel(name="tiny"))
    assert after.name == before.name
    assert after.weights != before.weights
    content = manifest_file(ctx, "registry.ollama.ai", "library", "tiny", "latest").read_bytes()
    assert hashlib.sha256(content).hexdigest() == after.digest
    await eventually(lambda: changes == ["tiny:latest", "tiny:latest"])


async def test_a_new_name_takes_the_spelling_of_its_known_parts(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    await imports.import_gguf(ctx, "Me/Tiny:a", tiny_gguf)
    await imports.import_gguf(ctx, "ME/tiny:B", tiny_gguf)
    await imports.import_gguf(ctx, "me/Other:A", tiny_gguf)
    assert {model.name for model in await bus.ask(ListModels())} == {"Me/Tiny:a", "Me/Tiny:B", "Me/Other:A"}


async def test_seeds_are_imported_once_by_replicas_that_start_together(
    ctx: Context, bus: Bus, changes: list[str]
) -> None:
    await asyncio.gather(*(imports.import_seeds(ctx) for _ in range(3)))
    await imports.import_seeds(ctx)
    assert [model.name for model in await bus.ask(ListModels())] == ["tiny:latest"]
    assert changes == ["tiny:latest"]
    assert not list(ctx.settings.data_dir.rglob("*partial*"))


async def test_a_lost_blob_comes_back_with_the_next_start(ctx: Context, bus: Bus) -> None:
    await imports.import_seeds(ctx)
    ref = await bus.ask(ResolveModel(name="tiny"))
    assert ref.weights is not None
    ctx.blobs.path(ref.weights).unlink()
    await imports.import_seeds(ctx)
    assert ctx.blobs.path(ref.weights).is_file()


@pytest.mark.parametrize("content", [None, b"", b"not a gguf"])
async def test_a_seed_that_cannot_be_imported_ends_with_one_line(
    ctx: Context, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    bad = replace(ctx, settings=ctx.settings.model_copy(update={"seed_models": {"bad": path}}))
    with pytest.raises(SystemExit, match="REGISTRY_SEED_MODELS: cannot import bad from"):
        await imports.import_seeds(bad)


async def test_the_list_is_newest_first(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    for name in ("b", "a", "c"):
        await imports.import_gguf(ctx, name, tiny_gguf)
    listed = await bus.ask(ListModels())
    assert [model.name for model in listed] == ["c:latest", "a:latest", "b:latest"]
    assert listed[0].details.family == "llama"
    assert listed[0].capabilities == ("completion",)


async def test_describe(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    brief = await bus.ask(DescribeModel(name="Tiny"))
    assert (brief.name, brief.template, brief.capabilities) == ("tiny:latest", CHAT_TEMPLATE, ("completion",))
    assert brief.model_info["general.architecture"] == "llama"
    assert brief.model_info["tokenizer.ggml.tokens"] is None
    assert brief.tensors == ()
    verbose = await bus.ask(DescribeModel(name="tiny", verbose=True))
    assert len(verbose.model_info["tokenizer.ggml.tokens"]) > 256
    assert verbose.tensors


@pytest.mark.parametrize("query", [ResolveModel(name="nobody:7b"), DescribeModel(name="nobody:7b")])
async def test_an_unknown_model(bus: Bus, query: ResolveModel) -> None:
    with pytest.raises(ModelNotFound, match=r"^model 'nobody:7b' not found$"):
        await bus.ask(query)


@pytest.mark.parametrize("name", ["", "../x", "a:b:c", "\0"])
async def test_what_is_not_a_name(bus: Bus, name: str) -> None:
    with pytest.raises(InvalidModelName, match=r"^invalid model name$"):
        await bus.ask(ResolveModel(name=name))
    with pytest.raises(InvalidModelName):
        await bus.ask(DescribeModel(name=name))


async def test_virtual_models_come_with_heartbeats(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    await imports.import_gguf(ctx, "echo-real", tiny_gguf)
    announced = (VirtualModel(pattern="echo*", engine="echo"), VirtualModel(pattern="one", engine="openai_http"))
    await bus.publish(a_heartbeat(virtual_models=announced))
    await eventually(ctx.virtual_models.summaries)
    assert (await bus.ask(ResolveModel(name="echo-2"))).engine == "echo"
    assert (await bus.ask(ResolveModel(name="echo-real"))).engine == "llama_cpp", "a model of ours comes first"
    assert {model.name for model in await bus.ask(ListModels())} == {"echo-real:latest", "one:latest"}
    assert (await bus.ask(DescribeModel(name="one"))).model_info == {"general.architecture": "openai_http"}


async def test_locate(ctx: Context, bus: Bus, tiny_gguf: Path, tiny_bytes: bytes) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    digest = (await bus.ask(ResolveModel(name="tiny"))).weights
    assert digest is not None
    location = await bus.ask(LocateBlob(digest=digest))
    assert location.url == f"http://127.0.0.1:11442/blobs/{digest}"
    assert location.path == str(ctx.blobs.path(digest))
    assert location.size == len(tiny_bytes)


async def test_locate_what_is_not_there(bus: Bus) -> None:
    with pytest.raises(NotFound):
        await bus.ask(LocateBlob(digest="sha256:" + "0" * 64))
    with pytest.raises(InvalidRequest):
        await bus.ask(LocateBlob(digest="sha256:../../etc/passwd"))


async def test_a_directory_of_an_ollama_is_taken_over(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    """Its manifests are there and our tables know nothing of them; one is damaged, one is no name."""
    await imports.import_gguf(ctx, "me/tiny:q4", tiny_gguf)
    ours = await bus.ask(ResolveModel(name="me/tiny:q4"))
    async with ctx.db.transaction() as tx:
        await tx.execute("delete from models")
    namespace = manifest_file(ctx, "registry.ollama.ai", "me")
    (namespace / "damaged").mkdir()
    (namespace / "damaged" / "latest").write_text("{")
    (namespace / "tiny" / ".DS_Store").write_text("")
    await imports.import_manifests(ctx)
    assert await bus.ask(ResolveModel(name="me/tiny:q4")) == ours
    assert [model.name for model in await bus.ask(ListModels())] == ["me/tiny:q4"]
    assert (namespace / "damaged" / "latest").exists(), "it is not ours to remove"


class AwayForAWhile:
    """A bus whose broker does not take the first events."""

    def __init__(self, bus: Bus, refusals: int) -> None:
        self._bus = bus
        self._refusals = refusals

    def __getattr__(self, name: str) -> object:
        return getattr(self._bus, name)

    async def publish(self, event: Event) -> None:
        self._refusals -= 1
        if self._refusals >= 0:
            raise Unavailable
        await self._bus.publish(event)


async def test_a_change_while_the_broker_is_away_is_made_and_announced_later(
    ctx: Context, tiny_gguf: Path, changes: list[str]
) -> None:
    assert await imports.import_gguf(replace(ctx, bus=cast(Bus, AwayForAWhile(ctx.bus, 2))), "tiny", tiny_gguf)
    await eventually(lambda: changes == ["tiny:latest"])
