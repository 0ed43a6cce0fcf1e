"""Models of the caller's organization, and those that are shared with it. A model's id is its name.

A name whose last part is ``versions``, ``replicas`` or ``usage`` is written with its tag: ``team/usage:latest``.
"""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field, JsonValue
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.contracts.registry import DeleteModel
from libs.common.contracts.registry.models import AddModel, ChangeModel, FindModels, GetModel, Model, ModelStatus
from libs.common.errors import InvalidRequest
from services.gateway.api.platform import etag
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Ctx, needs
from services.gateway.api.platform.etag import IfMatch
from services.gateway.api.platform.model_names import ModelName, checked
from services.gateway.api.platform.pages import Paging
from services.gateway.api.platform.text import NO_NUL
from services.gateway.models import LONGEST_NAME, own_name, seen_name

router = APIRouter(prefix="/models", tags=["models"])

Reader = Annotated[Identity, needs(Permission.MODEL_READ)]
Manager = Annotated[Identity, needs(Permission.MODEL_MANAGE)]

DELETE_SECONDS = 30.0
"""It may wait for somebody who is busy with the same layers."""

Tag = Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)]
LongText = Annotated[str, Field(max_length=50_000, pattern=NO_NUL)]


class Labels(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"tags": ["legal"], "description": "Answers lawyers"}]})

    tags: tuple[Tag, ...] = Field((), max_length=50)
    description: str = Field("", max_length=2000, pattern=NO_NUL)


class NewModel(Labels):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "llama3:8b"}, {"name": "lawyer", "from": "llama3:8b", "system": "You are a lawyer."}]
        }
    )

    name: str = Field(min_length=1, max_length=LONGEST_NAME, pattern=NO_NUL)
    base: str | None = Field(
        None, alias="from", min_length=1, max_length=LONGEST_NAME, pattern=NO_NUL, description="a model's name"
    )
    system: LongText | None = None
    template: LongText | None = Field(None, description="in the language of Go's templates")
    parameters: dict[Annotated[str, Field(max_length=100)], JsonValue] = Field({}, max_length=100)


class ModelSettings(Labels):
    shared: bool = Field(False, description="all organizations see it; for models of the operating one")


@router.get("")
async def models(
    ctx: Ctx,
    caller: Reader,
    paging: Paging,
    *,
    status: ModelStatus | None = None,
    name: Annotated[
        str, Query(max_length=200, pattern=NO_NUL, description="a part of the name, or a pattern as in the shell")
    ] = "",
    tags: Annotated[list[Tag], Query(max_length=50, description="it has all of them")] = [],  # noqa: B006  FastAPI's way
    created_by: Annotated[str, Query(max_length=100, pattern=NO_NUL, description="a user's id")] = "",
) -> Page[Model]:
    """Newest first, also those on their way here."""
    query = FindModels(
        patterns=caller.models, status=status, name=name, tags=tuple(tags), created_by=created_by, paging=paging
    )
    return await ctx.bus.ask(query)


@router.post("", status_code=202)
async def add(body: NewModel, ctx: Ctx, response: Response, caller: Manager) -> Model:
    """Pull a model, or with `from` make one of another, which is pulled if it is not here.

    The answer comes at once; `GET` at its `Location` tells `status` and, if it did not come, `error`. 409 while it is
    on its way already; `DELETE` gives it up.
    """
    if body.base is None and (body.system is not None or body.template is not None or body.parameters):
        raise InvalidRequest("system, template and parameters need a model to put them on: from")
    command = AddModel(
        name=own_name(caller, body.name),
        base="" if body.base is None else seen_name(caller, body.base),
        system=body.system,
        template=body.template,
        parameters=body.parameters,
        tags=body.tags,
        description=body.description,
    )
    model = await ctx.bus.ask(command)
    response.headers["Location"] = f"/api/v1/models/{quote(model.name, safe='/:')}"
    return model


@router.get("/{model:path}")
async def one(model: ModelName, ctx: Ctx, response: Response, caller: Reader) -> Model:
    """Also one on its way here."""
    return etag.tagged(response, await ctx.bus.ask(GetModel(name=checked(caller, model))))


@router.put("/{model:path}")
async def change(
    model: ModelName, body: ModelSettings, ctx: Ctx, response: Response, caller: Manager, *, expected: IfMatch
) -> Model:
    """What is said of it. 403 for a model that another organization shares."""
    query = ChangeModel(
        name=checked(caller, model),
        tags=body.tags,
        description=body.description,
        shared=body.shared,
        expected_version=expected,
    )
    return etag.tagged(response, await ctx.bus.ask(query))


@router.delete("/{model:path}", status_code=204)
async def delete(model: ModelName, ctx: Ctx, caller: Manager) -> None:
    """With its earlier versions; or give it up while it is on its way. 403 for one that another organization shares."""
    name = checked(caller, model)
    await ctx.bus.ask(DeleteModel(name=name, on_its_way=True), timeout=DELETE_SECONDS)
    ctx.models.forget(name, caller.organization_id)
