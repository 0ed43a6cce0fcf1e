from dataclasses import replace
from pathlib import Path

import pytest

from libs.common.bus.base import Bus
from libs.common.contracts.registry import CopyModel, DeleteModel, ListModels, ListVersions, ResolveModel, RollBack
from libs.common.errors import InvalidModelName, InvalidRequest, ModelNotFound, NotFound
from services.registry import catalog, holdings, imports, names
from services.registry.context import Context
from tests.fixtures.buses import eventually


@pytest.fixture
async def two_versions(ctx: Context, bus: Bus, tiny_gguf: Path, other_gguf: Path) -> tuple[str, str]:
    """The digests of what ``tiny`` points to and of what it pointed to before."""
    digests = []
    for path in (tiny_gguf, other_gguf):
        await imports.import_gguf(ctx, "tiny", path)
        digests.append((await bus.ask(ResolveModel(name="tiny"))).digest)
    return digests[1], digests[0]


async def test_what_a_name_pointed_to_is_kept(bus: Bus, two_versions: tuple[str, str]) -> None:
    versions = await bus.ask(ListVersions(name="TINY"))
    assert tuple(version.digest for version in versions) == two_versions
    assert [version.current for version in versions] == [True, False]
    assert {version.name for version in versions} == {"tiny:latest"}
    assert versions[0].created_at > versions[1].created_at
    models = await bus.ask(ListModels())
    assert len(models) == 1, "clients of Ollama do not notice"


async def test_back_and_forth(ctx: Context, bus: Bus, two_versions: tuple[str, str], changes: list[str]) -> None:
    newer, older = two_versions
    for wanted, other in ((older, newer), (newer, older)):
        rolled_back = await bus.ask(RollBack(name="tiny", digest=wanted))
        assert (rolled_back.digest, rolled_back.current) == (wanted, True)
        assert (await bus.ask(ResolveModel(name="tiny"))).digest == wanted
        assert [version.digest for version in await bus.ask(ListVersions(name="tiny"))] == [wanted, other]
    assert (await catalog.find_manifest(ctx, "tiny")).digest == newer
    await eventually(lambda: changes.count("tiny:latest") >= 2)


async def test_rolling_back_to_what_is_current_changes_nothing(bus: Bus, two_versions: tuple[str, str]) -> None:
    before = await bus.ask(ListVersions(name="tiny"))
    assert await bus.ask(RollBack(name="tiny", digest=two_versions[0])) == before[0]
    assert await bus.ask(ListVersions(name="tiny")) == before


async def test_no_such_version(bus: Bus, two_versions: tuple[str, str]) -> None:
    with pytest.raises(NotFound, match="has no version"):
        await bus.ask(RollBack(name="tiny", digest="0" * 64))
    with pytest.raises(ModelNotFound):
        await bus.ask(RollBack(name="nobody", digest="0" * 64))
    with pytest.raises(ModelNotFound):
        await bus.ask(ListVersions(name="nobody"))


@pytest.mark.parametrize("kept", [0, 1, 2])
async def test_the_oldest_are_forgotten(ctx: Context, bus: Bus, tiny_gguf: Path, other_gguf: Path, kept: int) -> None:
    keeping = replace(ctx, settings=ctx.settings.model_copy(update={"versions_kept": kept}))
    for name, path in (("a", tiny_gguf), ("b", other_gguf)):
        await imports.import_gguf(ctx, name, path)
    small = await holdings.add_bytes(ctx, b'{"capabilities":["completion"]}')
    manifest = await catalog.find_manifest(ctx, "a")
    other_config = manifest.text.replace(manifest.config.blob.digest, small.digest).replace(
        f'"size":{manifest.config.blob.size}', f'"size":{small.size}', 1
    )
    for text in (manifest.text, (await catalog.find_manifest(ctx, "b")).text, other_config):
        assert await catalog.install(keeping, names.parse("tiny"), text.encode())
    versions = await bus.ask(ListVersions(name="tiny"))
    assert len(versions) == kept + 1


async def test_a_copy_shares_its_layers(ctx: Context, bus: Bus, tiny_gguf: Path, changes: list[str]) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    await bus.ask(CopyModel(source="tiny", destination="me/Other:v1"))
    original, copied = [await bus.ask(ResolveModel(name=name)) for name in ("tiny", "me/other:V1")]
    assert copied.name == "me/Other:v1"
    assert (copied.digest, copied.weights, copied.size) == (original.digest, original.weights, original.size)
    await eventually(lambda: changes == ["tiny:latest", "me/Other:v1"])


async def test_copies_that_cannot_be(bus: Bus) -> None:
    with pytest.raises(ModelNotFound, match=r'^model "nobody" not found$'):
        await bus.ask(CopyModel(source="nobody", destination="x"))
    with pytest.raises(InvalidModelName, match=r'^source "\.\./x" is invalid$'):
        await bus.ask(CopyModel(source="../x", destination="x"))
    with pytest.raises(InvalidModelName, match=r'^destination "a:b:c" is invalid$'):
        await bus.ask(CopyModel(source="x", destination="a:b:c"))


async def test_deleting_leaves_the_layers_that_others_need(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    ref = await bus.ask(ResolveModel(name="tiny"))
    assert ref.weights is not None
    await bus.ask(CopyModel(source="tiny", destination="me/other"))
    await bus.ask(DeleteModel(name="TINY"))
    with pytest.raises(ModelNotFound):
        await bus.ask(ResolveModel(name="tiny"))
    assert ctx.blobs.path(ref.weights).is_file()
    assert [path.name for path in (ctx.settings.data_dir / "manifests").rglob("*") if path.is_file()] == ["latest"]
    await bus.ask(DeleteModel(name="me/other"))
    assert list((ctx.settings.data_dir / "blobs").iterdir()) == []
    assert not [path for path in (ctx.settings.data_dir / "manifests").rglob("*") if path.is_file()]


async def test_deleting_forgets_the_versions_and_their_layers(
    ctx: Context, bus: Bus, two_versions: tuple[str, str], changes: list[str]
) -> None:
    await bus.ask(DeleteModel(name="tiny"))
    assert list((ctx.settings.data_dir / "blobs").iterdir()) == []
    assert await bus.ask(ListModels()) == ()
    await eventually(lambda: "tiny:latest" in changes)


async def test_deleting_what_is_not_there(bus: Bus) -> None:
    with pytest.raises(ModelNotFound, match=r"^model 'nobody' not found$"):
        await bus.ask(DeleteModel(name="nobody"))
    with pytest.raises(InvalidModelName, match=r'^name "a:b:c" is invalid$'):
        await bus.ask(DeleteModel(name="a:b:c"))


async def test_a_copy_of_a_model_whose_blobs_are_lost_is_refused(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    await imports.import_gguf(ctx, "tiny", tiny_gguf)
    manifest = await catalog.find_manifest(ctx, "tiny")
    await ctx.blobs.remove(manifest.config.blob.digest)
    with pytest.raises(InvalidRequest, match=f"^blob {manifest.config.blob.digest} not found$"):
        await bus.ask(CopyModel(source="tiny", destination="other"))
