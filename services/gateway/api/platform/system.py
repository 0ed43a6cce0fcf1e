"""The installation: its version and its settings."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.gateway import SystemConfig
from libs.common.contracts.paging import Page
from libs.common.contracts.permissions import Permission
from libs.common.version import VERSION
from services.gateway import system_config
from services.gateway.api.platform import etag
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import PUBLIC, Ctx, needs
from services.gateway.api.platform.etag import IfMatch
from services.gateway.api.platform.pages import Paging
from services.gateway.store.system_config import ConfigChange

router = APIRouter(tags=["system"])

Reader = Annotated[Identity, needs(Permission.CLUSTER_READ)]
Manager = Annotated[Identity, needs(Permission.CLUSTER_MANAGE)]


class Version(BaseModel):
    version: str = Field(examples=[VERSION])
    ollama_version: str = Field(description="of the API that is spoken to Ollama's clients", examples=["0.33.0"])


class NewConfig(SystemConfig, Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"max_waiting": 2000, "registration": "invitation", "log_level": "INFO"}]}
    )


@router.get("/version", dependencies=[PUBLIC])
async def version(ctx: Ctx) -> Version:
    """What runs here."""
    return Version(version=VERSION, ollama_version=ctx.settings.ollama_version)


@router.get("/system/config")
async def config(ctx: Ctx, response: Response, _caller: Reader) -> SystemConfig:
    """What was set here. A null means: as each service's environment says."""
    now = await system_config.in_force(ctx.db)
    etag.tag(response, now.version)
    return now.config


@router.put("/system/config")
async def replace(body: NewConfig, ctx: Ctx, response: Response, caller: Manager, expected: IfMatch) -> SystemConfig:
    """Works in every process within a second. What is absent or null is again as the environment says."""
    wanted = SystemConfig.model_validate(body.model_dump())
    now = await system_config.change(ctx.db, wanted, caller.user_id, expected)
    ctx.config.hear(now)
    etag.tag(response, now.version)
    return now.config


@router.get("/system/config/history")
async def history(ctx: Ctx, paging: Paging, _caller: Reader) -> Page[ConfigChange]:
    """Every change, the newest first."""
    return await system_config.history(ctx.db, paging)
