"""Every route says whom it lets in."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.applications import Starlette
from starlette.routing import Route

from services.gateway.api import create_app
from services.gateway.api.door import Door
from services.gateway.api.platform.body import Body
from services.gateway.api.platform.caller import Needs, open_to_everybody
from services.gateway.api.platform.openapi import PREFIX, calls_of
from tests.fixtures.gateway import a_gateway

OPEN_TO_EVERYBODY = {
    "/",
    "/api/version",
    "/api/status",
    "/api/me",
    "/api/signout",
    "/api/user/keys/{key}",
    "/api/experimental/model-recommendations",
}
"""Of Ollama's routes: they tell what this is, and that there is no ollama.com account here."""
HEALTH = {"/health", "/health/live", "/health/ready", "/health/db"}


def kinds_of(body: type[Body]) -> Iterator[type[Body]]:
    for kind in body.__subclasses__():
        yield kind
        yield from kinds_of(kind)


@pytest.fixture
async def app() -> AsyncIterator[Starlette]:
    async with a_gateway() as gateway:
        yield create_app(gateway.ctx)


def platform_of(app: Starlette) -> FastAPI:
    found = {route.app for route in app.routes if isinstance(route, Route) and isinstance(route.app, FastAPI)}
    assert len(found) == 1
    return found.pop()


def platform_routes(app: Starlette) -> list[RouteContext]:
    return [route for route in iter_route_contexts(platform_of(app).routes) if route.path not in HEALTH]


def test_every_door_of_a_dialect_asks_who_comes(app: Starlette) -> None:
    platform = platform_of(app)
    doors = [route for route in app.routes if isinstance(route, Route) and route.app is not platform]
    assert {route.path for route in doors if not isinstance(route.app, Door)} == OPEN_TO_EVERYBODY
    assert len(doors) > 30


def test_every_route_of_the_platform_names_one_permission_or_is_public(app: Starlette) -> None:
    for route in platform_routes(app):
        calls = list(calls_of(route.dependant))
        asked = [call for call in calls if isinstance(call, Needs) or call is open_to_everybody]
        assert len(asked) == 1, f"{route.methods} {route.path} must have needs(Permission....) or PUBLIC, once"
        assert (route.path or "").startswith(PREFIX)


def test_every_body_is_read_as_the_json_it_is(app: Starlette) -> None:
    lax = {
        f"{route.path}: {route.body_field.field_info.annotation}"
        for route in platform_routes(app)
        if route.body_field is not None and not issubclass(route.body_field.field_info.annotation, Body)
    }
    assert lax == set(), "derive them from platform/body.py:Body"
    misspelling = {body.__qualname__ for body in kinds_of(Body) if body.model_config["extra"] != "forbid"}
    assert misspelling == set(), "name Body last among their bases"


def test_every_operation_has_a_tag_an_id_and_words(app: Starlette) -> None:
    document = platform_of(app).openapi()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert [each["operationId"] for each in operations if not each.get("tags") or not each.get("description")] == []
    assert len({each["operationId"] for each in operations}) == len(operations)


async def test_every_body_has_an_example(app: Starlette) -> None:
    document = platform_of(app).openapi()

    def resolved(schema: dict[str, Any]) -> dict[str, Any]:
        name = schema.get("$ref", "").rpartition("/")[2]
        return document["components"]["schemas"][name] if name else schema

    def has_example(schema: dict[str, Any]) -> bool:
        needed = schema.get("required") or schema.get("properties", ())
        return "examples" in schema or (
            bool(needed) and all(has_example(resolved(schema["properties"][name])) for name in needed)
        )

    bodies = {
        operation["operationId"]: resolved(operation["requestBody"]["content"]["application/json"]["schema"])
        for path in document["paths"].values()
        for operation in path.values()
        if "requestBody" in operation
    }
    assert [name for name, body in bodies.items() if not has_example(body)] == []
    assert len(bodies) > 25
