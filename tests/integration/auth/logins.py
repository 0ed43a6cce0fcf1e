"""Logging in over the bus, and acting in the session as the gateway does."""

import jwt

from libs.common import actor
from libs.common.bus.base import Bus
from libs.common.contracts.auth.sessions import Login, Session
from libs.common.contracts.auth.users import CreateUser
from tests.integration.auth.conftest import EMAIL, PASSWORD

IP = "203.0.113.9"


def stranger(ip: str = IP) -> None:
    """From here on nobody has been recognised."""
    actor.become(actor.Actor(ip=ip, user_agent="curl/8", request_id="r1"))


async def log_in(bus: Bus, email: str = EMAIL, password: str = PASSWORD, *, ip: str = IP, code: str = "") -> Session:
    """From here on this task acts in the session."""
    stranger(ip)
    session = await bus.ask(Login(email=email, password=password, code=code))
    act_in(session)
    return session


def act_in(session: Session) -> None:
    actor.become(
        actor.Actor(
            organization_id=session.organization_id,
            user_id=session.user.id,
            session_id=session_id(session),
            ip=IP,
            user_agent="curl/8",
        )
    )


def session_id(session: Session) -> str:
    return str(jwt.decode(session.access_token, options={"verify_signature": False})["sid"])


async def a_user(bus: Bus, email: str = "ada@b.example", password: str = PASSWORD, **changes: str) -> str:
    """The id of a new user, made by whom this task acts for."""
    return (await bus.ask(CreateUser.model_validate({"email": email, "password": password, **changes}))).id
