"""Models of several organizations, on real Postgres: each sees its own, and what is shared with it."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from libs.common import actor
from libs.common.bus.base import Bus
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.auth.organizations import OrganizationDeleted
from libs.common.contracts.message import Query
from libs.common.contracts.registry import (
    CopyModel,
    DeleteModel,
    DescribeModel,
    ListModels,
    ListReplicas,
    ListVersions,
    NamesOfDigest,
    ReplicateModel,
    ResolveModel,
    RollBack,
)
from libs.common.contracts.registry.models import ChangeModel, GetModel
from libs.common.database import EVERY_ORGANIZATION
from libs.common.errors import Forbidden, InvalidRequest, ModelNotFound, ServiceError
from services.registry import blobs, catalog, holdings, imports
from services.registry.context import Context
from services.registry.prune import prune
from services.registry.store import blobs as blob_store
from tests.fixtures.buses import eventually

ACME, GLOBEX = (actor.Actor(organization_id=name, user_id=f"of {name}") for name in ("acme", "globex"))


async def names(bus: Bus, who: actor.Actor) -> list[str]:
    with actor.acting(who):
        return [model.name for model in await bus.ask(ListModels())]


async def make(ctx: Context, who: actor.Actor, name: str, path: Path) -> None:
    with actor.acting(who):
        await imports.import_gguf(ctx, name, path)


async def test_the_same_name_is_another_model(ctx: Context, bus: Bus, tiny_gguf: Path, other_gguf: Path) -> None:
    await asyncio.gather(make(ctx, ACME, "m", tiny_gguf), make(ctx, GLOBEX, "M", other_gguf))
    found = {}
    for who in (ACME, GLOBEX):
        with actor.acting(who):
            found[who] = await bus.ask(ResolveModel(name="m"))
    assert [(ref.organization_id, ref.name) for ref in found.values()] == [("acme", "m:latest"), ("globex", "M:latest")]
    assert found[ACME].weights != found[GLOBEX].weights
    assert await names(bus, actor.Actor(organization_id="default")) == []
    homes = ctx.settings.data_dir / "organizations"
    assert [path.name for path in sorted(homes.glob("*/manifests/*/*/*"))] == ["m", "M"]


async def test_a_shared_model_is_seen_by_all_and_changed_by_its_own(ctx: Context, bus: Bus, other_gguf: Path) -> None:
    await imports.import_seeds(ctx)
    assert await names(bus, ACME) == ["tiny:latest"]
    with actor.acting(ACME):
        model = await bus.ask(GetModel(name="tiny"))
        assert (model.own, model.shared, model.created_by) == (False, True, "")
        refused: list[Query[Any]] = [
            DeleteModel(name="tiny"),
            ChangeModel(name="tiny", tags=(), description="ours", shared=True),
        ]
        for query in refused:
            with pytest.raises(Forbidden):
                await bus.ask(query)
        await imports.import_gguf(ctx, "tiny", other_gguf)
        assert (await bus.ask(ResolveModel(name="tiny"))).organization_id == "acme"
    assert await names(bus, ACME) == ["tiny:latest"]
    assert (await bus.ask(ResolveModel(name="tiny"))).organization_id == "default"


async def test_a_model_is_shared_and_unshared(
    ctx: Context, bus: Bus, tiny_gguf: Path, broker: MemoryBroker, changes: list[str]
) -> None:
    await imports.import_gguf(ctx, "m", tiny_gguf)
    for shared, seen in ((True, ["m:latest"]), (False, [])):
        await bus.ask(ChangeModel(name="m", tags=(), description="", shared=shared))
        assert await names(bus, ACME) == seen
    await eventually(lambda: changes == ["m:latest"] * 3)
    await make(ctx, ACME, "theirs", tiny_gguf)
    with actor.acting(ACME), pytest.raises(InvalidRequest):
        await bus.ask(ChangeModel(name="theirs", tags=(), description="", shared=True))


async def test_what_a_shared_model_was_before_is_not_shared(
    ctx: Context, bus: Bus, http: httpx.AsyncClient, tiny_gguf: Path, other_gguf: Path
) -> None:
    await imports.import_gguf(ctx, "m", tiny_gguf)
    before = await bus.ask(ResolveModel(name="m"))
    await imports.import_gguf(ctx, "m", other_gguf)
    await bus.ask(ChangeModel(name="m", tags=(), description="", shared=True))
    now = await bus.ask(ResolveModel(name="m"))
    theirs = {actor.HEADER: actor.encode(ACME)}
    for ref, hidden, status in ((before, True, 404), (now, False, 200)):
        assert (await http.get(f"/v2/library/m/manifests/sha256:{ref.digest}")).status_code == 200
        for path in (f"manifests/sha256:{ref.digest}", f"blobs/{ref.weights}"):
            assert (await http.get(f"/v2/library/m/{path}", headers=theirs)).status_code == status
        with actor.acting(ACME):
            assert (ref.digest in {version.digest for version in await bus.ask(ListVersions(name="m"))}) is not hidden
            assert await bus.ask(NamesOfDigest(digest=ref.weights or "")) == (() if hidden else ("m:latest",))


async def test_another_organizations_model_is_nowhere(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    await make(ctx, ACME, "m", tiny_gguf)
    with actor.acting(ACME):
        digest = (await bus.ask(ResolveModel(name="m"))).digest
    for name in ("m", digest):
        queries: list[Query[Any]] = [ReplicateModel(model=name, count=1), ListReplicas(model=name)]
        if name == "m":
            queries += [
                *(ResolveModel(name=name), DescribeModel(name=name), GetModel(name=name), DeleteModel(name=name)),
                *(ListVersions(name=name), RollBack(name=name, digest=digest)),
                *(
                    CopyModel(source=name, destination="n"),
                    ChangeModel(name=name, tags=(), description="", shared=False),
                ),
            ]
        for query in queries:
            with actor.acting(GLOBEX), pytest.raises(ModelNotFound) as error:
                await bus.ask(query)
            nowhere = query.model_validate_json(query.model_dump_json().replace(f'"{name}"', '"nowhere"'))
            with actor.acting(GLOBEX), pytest.raises(ModelNotFound) as same:
                await bus.ask(nowhere)
            assert error.value.message == same.value.message.replace("nowhere", name)


async def test_who_names_bytes_of_others_does_not_get_them(ctx: Context, bus: Bus, tiny_gguf: Path) -> None:
    await make(ctx, ACME, "m", tiny_gguf)
    with actor.acting(ACME):
        stored = await catalog.find_stored(ctx, "m")
        assert await bus.ask(NamesOfDigest(digest=stored.weights)) == ("m:latest",)
    with actor.acting(GLOBEX):
        assert await bus.ask(NamesOfDigest(digest=stored.weights)) == ()
        assert await holdings.find(ctx, stored.weights) is None
        with pytest.raises(InvalidRequest, match="not found"):
            await catalog.install(ctx, stored.name, stored.manifest_text.encode())
        await holdings.add_file(ctx, tiny_gguf)
        assert await holdings.find(ctx, stored.weights) is not None


async def test_blobs_over_http(ctx: Context, http: httpx.AsyncClient, tiny_bytes: bytes, tiny_gguf: Path) -> None:
    await make(ctx, ACME, "m", tiny_gguf)
    digest = blobs.digest_of(tiny_bytes)
    globex = {actor.HEADER: actor.encode(GLOBEX)}
    for path in (f"/blobs/{digest}", f"/v2/library/m/blobs/{digest}"):
        assert (await http.head(path, headers=globex)).status_code == 404
        assert (await http.get(path, headers=globex)).status_code == 404
    mounted = await http.post(f"/v2/x/y/blobs/uploads/?mount={digest}&from=library/m", headers=globex)
    assert mounted.status_code == 202
    assert (await http.post(f"/blobs/{digest}", content=b"wrong", headers=globex)).status_code == 400
    assert (await http.post(f"/blobs/{digest}", content=tiny_bytes, headers=globex)).status_code == 201
    assert (await http.head(f"/blobs/{digest}", headers=globex)).status_code == 200
    acme = {actor.HEADER: actor.encode(ACME)}
    assert (await http.get("/v2/library/m/manifests/latest", headers=globex)).status_code == 404
    assert (await http.get("/v2/library/m/manifests/latest", headers=acme)).status_code == 200


async def test_an_upload_in_pieces_belongs_to_who_began_it(http: httpx.AsyncClient) -> None:
    acme, globex = ({actor.HEADER: actor.encode(who)} for who in (ACME, GLOBEX))
    begun = await http.post("/v2/x/y/blobs/uploads/", headers=acme)
    assert (await http.get(begun.headers["location"], headers=globex)).status_code == 404
    assert (await http.patch(begun.headers["location"], content=b"a", headers=globex)).status_code == 404
    assert (await http.patch(begun.headers["location"], content=b"a", headers=acme)).status_code == 202


async def test_what_one_deletes_another_keeps(ctx: Context, bus: Bus, tiny_gguf: Path, tiny_bytes: bytes) -> None:
    for who in (ACME, GLOBEX):
        await make(ctx, who, "m", tiny_gguf)
    digest = blobs.digest_of(tiny_bytes)
    with actor.acting(ACME):
        await bus.ask(DeleteModel(name="m"))
    assert await prune(ctx) == []
    assert ctx.blobs.path(digest).exists()
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await blob_store.forget_brought(tx, 0)  # nobody is about to make a model of it
    with actor.acting(GLOBEX):
        await bus.ask(DeleteModel(name="m"))
    assert not ctx.blobs.path(digest).exists()


async def test_what_another_has_just_brought_stays(ctx: Context, bus: Bus, tiny_gguf: Path, tiny_bytes: bytes) -> None:
    await make(ctx, ACME, "m", tiny_gguf)
    with actor.acting(GLOBEX):
        await holdings.add_bytes(ctx, tiny_bytes)
    with actor.acting(ACME):
        await bus.ask(DeleteModel(name="m"))
    assert ctx.blobs.path(blobs.digest_of(tiny_bytes)).exists()


async def test_the_models_of_an_organization_go_with_it(
    ctx: Context, bus: Bus, tiny_gguf: Path, broker: MemoryBroker
) -> None:
    for who in (ACME, GLOBEX):
        await make(ctx, who, "m", tiny_gguf)
    async with MemoryBus.open(broker, "auth", "a1") as auth:
        await auth.publish(OrganizationDeleted(organization_id="acme"))
        gone = ctx.settings.data_dir / "organizations" / "acme"
        await eventually(lambda: not gone.exists())
    assert (await names(bus, ACME), await names(bus, GLOBEX)) == ([], ["m:latest"])


TABLES = ("models", "model_versions", "model_layers", "model_additions", "brought_blobs")


@pytest.mark.parametrize("organization", ["", "globex"])
async def test_by_raw_sql(ctx: Context, service_urls: dict[str, str], tiny_gguf: Path, organization: str) -> None:
    await make(ctx, ACME, "m", tiny_gguf)
    async with await psycopg.AsyncConnection.connect(service_urls["registry"]) as connection:
        await connection.execute("select set_config('ollamamax.organization', %s, true)", [organization])
        for table in TABLES:
            rows = await connection.execute(f"select count(*) from {table}")
            assert await rows.fetchone() == (0,), table
        for change in ("update models set description = 'x'", "delete from models", "delete from model_layers"):
            assert (await connection.execute(change)).rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("insert into brought_blobs (organization_id, digest) values ('acme', 'x')")


async def test_nobody_in_particular_makes_nothing(ctx: Context, tiny_gguf: Path) -> None:
    with actor.acting(actor.SYSTEM), pytest.raises((ServiceError, psycopg.Error)):
        await holdings.brought(ctx, blobs.Blob("sha256:" + hashlib.sha256(b"").hexdigest(), 0))
