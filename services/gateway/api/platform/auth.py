"""Logging in."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, Secret

from libs.common.contracts.auth import Login, Session
from services.gateway.api.platform.caller import Ctx
from services.gateway.api.platform.text import NO_NUL

router = APIRouter(prefix="/auth")


class Credentials(BaseModel):
    email: str = Field(max_length=320, pattern=NO_NUL)
    # Not SecretStr, which lets lone surrogates in: no message can carry them.
    password: Secret[Annotated[str, Field(max_length=1024)]]


@router.post("/login")
async def login(body: Credentials, ctx: Ctx) -> Session:
    return await ctx.bus.ask(Login(email=body.email, password=body.password.get_secret_value()), timeout=10)
