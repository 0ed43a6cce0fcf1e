"""Models as the platform tells of them, asked over the bus: on their way, here, found, changed."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from libs.common import actor
from libs.common.bus.base import Bus
from libs.common.contracts.paging import PageRequest
from libs.common.contracts.registry import DeleteModel, ListModels, ResolveModel
from libs.common.contracts.registry.models import AddModel, ChangeModel, FindModels, GetModel, Model
from libs.common.errors import (
    Conflict,
    InvalidModelName,
    InvalidRequest,
    ModelNotFound,
    PreconditionFailed,
    RateLimited,
)
from services.registry import additions, imports, operations, records
from services.registry.context import Context
from services.registry.store import additions as store
from services.registry.store import models as model_store
from services.registry.store.additions import Addition

ACME = actor.Actor(organization_id="acme", user_id="u7")
GLOBEX = actor.Actor(organization_id="globex")


async def status(bus: Bus, name: str, wanted: str) -> Model:
    async with asyncio.timeout(20):
        while (model := await bus.ask(GetModel(name=name))).status != wanted:  # noqa: ASYNC110  the registry works on it by itself
            await asyncio.sleep(0.02)
    return model


async def found(bus: Bus, **filters: object) -> list[str]:
    page = await bus.ask(FindModels.model_validate(filters))
    return [model.name for model in page.items]


async def test_a_model_is_made_for_who_asked(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    with actor.acting(ACME):
        await imports.import_gguf(ctx, "base", tiny_gguf)
        added = await bus.ask(AddModel(name="Lawyer", base="base", system="s", tags=("legal",), description="d"))
        assert (added.name, added.status, added.tags) == ("Lawyer:latest", "pulling", ("legal",))
        model = await status(bus, "lawyer", "ready")
        assert (model.tags, model.description, model.created_by, model.own) == (("legal",), "d", "u7", True)
        assert sorted(await found(bus)) == ["Lawyer:latest", "base:latest"]
    with actor.acting(GLOBEX):
        assert await found(bus) == []


async def test_one_that_does_not_come(ctx: Context, bus: Bus) -> None:
    name = "127.0.0.1:1/x/none"
    with actor.acting(ACME):
        await bus.ask(AddModel(name=name))
        model = await status(bus, name, "failed")
        assert "not on a public address" in model.error
        assert await found(bus, status="failed") == [f"{name}:latest"]
        assert await bus.ask(ListModels()) == ()
        await bus.ask(AddModel(name=name))
        await status(bus, name, "failed")
        await bus.ask(DeleteModel(name=name, on_its_way=True))
        with pytest.raises(ModelNotFound):
            await bus.ask(GetModel(name=name))


async def test_one_that_is_refused_or_crashes_has_failed(
    ctx: Context, bus: Bus, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "MOST_HELD", 0)
    with actor.acting(ACME):
        await bus.ask(AddModel(name="localhost:1/x/m"))
        assert "busy" in (await status(bus, "localhost:1/x/m", "failed")).error
    monkeypatch.undo()
    with actor.acting(ACME):
        await imports.import_gguf(ctx, "base", tiny_gguf)
        weights = (await bus.ask(ResolveModel(name="base"))).weights
        assert weights is not None
        ctx.blobs.path(weights).unlink()
        ctx.blobs.path(weights).mkdir()  # reading it is an error that nobody expects
        await bus.ask(AddModel(name="n", base="base"))
        await status(bus, "n", "failed")


@pytest.mark.parametrize("look", ["one", "all"])
async def test_what_comes_while_one_looks_is_told_with_all_that_is_said_of_it(
    ctx: Context, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    begun = Addition("acme", "m:latest", "operation", "pulling", "", "u7", ["legal"], "", datetime.now(UTC))
    came: list[bool] = []

    def after_which_it_comes(read: Any) -> Any:
        async def reading(*arguments: Any) -> Any:
            found = await read(*arguments)
            if not came:
                came.append(True)
                await additions.ended(ctx, "operation", None)
            return found

        return reading

    with actor.acting(ACME):
        await imports.import_gguf(ctx, "m", tiny_gguf)
        async with ctx.db.transaction() as tx:
            await store.begin(tx, begun)
        for module, name in ((model_store, "find_model"), (model_store, "list_models"), (store, "find_addition")):
            monkeypatch.setattr(module, name, after_which_it_comes(getattr(module, name)))
        monkeypatch.setattr(store, "list_additions", after_which_it_comes(store.list_additions))
        model = await records.get(ctx, "m") if look == "one" else (await records.find(ctx, FindModels())).items[0]
    assert came
    assert model.status == "pulling" or model.tags == ("legal",)


async def test_one_that_is_on_its_way(ctx: Context, bus: Bus) -> None:
    begun = Addition("acme", "m:latest", "operation", "pulling", "", "u7", [], "", datetime.now(UTC))
    async with ctx.db.transaction("acme") as tx:
        await store.begin(tx, begun)
    with actor.acting(ACME):
        assert await found(bus, status="pulling") == ["m:latest"]
        with pytest.raises(Conflict):
            await bus.ask(AddModel(name="M"))
        with pytest.raises(ModelNotFound):
            await bus.ask(DeleteModel(name="m"))
    with actor.acting(GLOBEX):
        for query in (GetModel(name="m"), DeleteModel(name="m", on_its_way=True)):
            with pytest.raises(ModelNotFound):
                await bus.ask(query)  # type: ignore[misc]
    with actor.acting(ACME):
        await bus.ask(DeleteModel(name="m", on_its_way=True))
        assert await found(bus) == []


async def test_an_organization_has_so_many_on_their_way_and_so_many_that_failed(
    ctx: Context, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(additions, "MOST_ON_THEIR_WAY", 1)
    monkeypatch.setattr(additions, "FAILED_KEPT", 2)
    async with ctx.db.transaction("acme") as tx:
        for name, state in (("a:1", "pulling"), ("b:1", "failed"), ("c:1", "failed"), ("d:1", "failed")):
            await store.begin(tx, Addition("acme", name, name, "pulling", "", "u7", [], "", datetime.now(UTC)))
            if state == "failed":
                await store.fail(tx, name, "no")
    with actor.acting(ACME):
        with pytest.raises(RateLimited):
            await bus.ask(AddModel(name="one/too-many"))
        await bus.ask(DeleteModel(name="a:1", on_its_way=True))
        await bus.ask(AddModel(name="127.0.0.1:1/x/none"))
        assert set(await found(bus)) >= {"c:1", "d:1"}
        assert "b:1" not in await found(bus)
    with actor.acting(GLOBEX):
        await bus.ask(AddModel(name="127.0.0.1:1/x/none"))


async def test_a_name_that_is_none(bus: Bus) -> None:
    with pytest.raises(InvalidModelName):
        await bus.ask(AddModel(name="a b"))


async def test_filters_and_pages(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    with actor.acting(ACME):
        for name in ("team/a", "team/b:7b", "c"):
            await imports.import_gguf(ctx, name, tiny_gguf)
        await bus.ask(ChangeModel(name="team/a", tags=("x", "y"), description="", shared=False))
        for filters, names in (
            ({"name": "TEAM"}, ["team/b:7b", "team/a:latest"]),
            ({"name": "*:7b"}, ["team/b:7b"]),
            ({"tags": ("y", "x")}, ["team/a:latest"]),
            ({"tags": ("x", "z")}, []),
            ({"created_by": "u7", "status": "ready"}, ["c:latest", "team/b:7b", "team/a:latest"]),
            ({"created_by": "other"}, []),
            ({"patterns": (("team/*", "c*"), ("*:latest",))}, ["c:latest", "team/a:latest"]),
            ({"patterns": (("TEAM/A", "team/b", "C"),)}, ["c:latest", "team/a:latest"]),
        ):
            assert await found(bus, **filters) == names
        first = await bus.ask(FindModels(paging=PageRequest(limit=2)))
        rest = await bus.ask(FindModels(paging=PageRequest(limit=2, cursor=first.next_cursor or "")))
        assert [model.name for model in (*first.items, *rest.items)] == ["c:latest", "team/b:7b", "team/a:latest"]
        assert rest.next_cursor is None
        with pytest.raises(InvalidRequest):
            await bus.ask(FindModels(paging=PageRequest(cursor="bm9uZQ==")))


async def test_of_two_changes_of_one_version_one_wins(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    await imports.import_gguf(ctx, "m", tiny_gguf)
    version = (await bus.ask(GetModel(name="m"))).version
    changes = [
        ChangeModel(name="m", tags=(tag,), description="", shared=False, expected_version=version) for tag in "ab"
    ]
    results = await asyncio.gather(*map(bus.ask, changes), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Model", PreconditionFailed.__name__]
    assert (await bus.ask(GetModel(name="m"))).version == version + 1
