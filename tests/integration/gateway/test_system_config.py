"""The installation's settings, on a real database and through the routes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from libs.common import actor
from libs.common.contracts.gateway import ConfigChanged, ConfigVersion, SystemConfig
from libs.common.contracts.paging import PageRequest
from libs.common.database import Database
from libs.common.errors import PreconditionFailed
from services.gateway import system_config
from tests.fixtures.builders import an_identity
from tests.fixtures.database import open_database
from tests.fixtures.gateway import Gateway, a_gateway

PATH = "/api/v1/system/config"


@pytest.fixture
async def db(service_urls: dict[str, str]) -> AsyncIterator[Database]:
    async with open_database(service_urls["gateway"]) as database:
        yield database


@pytest.fixture
async def gateway(db: Database) -> AsyncIterator[Gateway]:
    async with a_gateway() as gateway:
        gateway.ctx = replace(gateway.ctx, db=db)
        yield gateway


async def staged(db: Database) -> list[tuple[str, dict[str, Any]]]:
    async with db.transaction() as tx:
        rows = await tx.execute("select message, body from outbox order by id")
        return [(message, body) for message, body in await rows.fetchall()]


async def test_a_change_is_kept_announced_and_audited(db: Database) -> None:
    actor.become(actor.Actor(organization_id="default", user_id="u", ip="192.0.2.1"))
    now = await system_config.change(db, SystemConfig(max_waiting=7), "u", expected=1)
    assert now == ConfigVersion(version=2, config=SystemConfig(max_waiting=7))
    assert await system_config.in_force(db) == now
    messages = dict(await staged(db))
    assert ConfigChanged.model_validate(messages["gateway.ConfigChanged"]).now == now
    audit = messages["auth.RecordAudit"]
    assert (audit["action"], audit["user_id"], audit["ip"]) == ("system_config.update", "u", "192.0.2.1")
    assert (audit["before"]["config"], audit["after"]["config"]) == ({}, {"max_waiting": 7})


async def test_of_two_who_read_the_same_version_one_changes_it(db: Database) -> None:
    changes = (system_config.change(db, SystemConfig(max_waiting=n), "u", expected=1) for n in (5, 6, 7))
    results = await asyncio.gather(*changes, return_exceptions=True)
    assert sum(isinstance(result, PreconditionFailed) for result in results) == 2
    assert (await system_config.in_force(db)).version == 2


async def test_the_same_again_is_no_change(db: Database) -> None:
    for _ in range(2):
        await system_config.change(db, SystemConfig(log_level="DEBUG"), "u", expected=None)
    assert (await system_config.in_force(db)).version == 2
    assert [message for message, _ in await staged(db)].count("gateway.ConfigChanged") == 1


async def test_history_in_pages(db: Database) -> None:
    for number in (5, 6, 7):
        await system_config.change(db, SystemConfig(max_waiting=number), f"u{number}", expected=None)
    first = await system_config.history(db, PageRequest(limit=2))
    assert [(each.version, each.changed_by) for each in first.items] == [(4, "u7"), (3, "u6")]
    assert (first.items[0].before.max_waiting, first.items[0].after.max_waiting) == (6, 7)
    rest = await system_config.history(db, PageRequest(limit=2, cursor=first.next_cursor or ""))
    assert ([each.version for each in rest.items], rest.next_cursor) == ([2], None)


async def test_read_change_and_read_again(gateway: Gateway) -> None:
    async with gateway.caller("admin") as http:
        read = await http.get(PATH)
        assert (read.status_code, read.headers["etag"], set(read.json().values())) == (200, '"1"', {None})
        change = {"anonymous": False, "origins": ["https://new.example"]}
        changed = await http.put(PATH, json=change, headers={"If-Match": read.headers["etag"]})
        assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
        assert (await http.get(PATH)).json() == changed.json() == dict.fromkeys(read.json()) | change
        assert (await http.put(PATH, json={}, headers={"If-Match": '"1"'})).status_code == 412
        (entry,) = (await http.get(f"{PATH}/history")).json()["items"]
    assert (entry["version"], entry["changed_by"]) == (2, an_identity().user_id)
    assert not gateway.ctx.settings.admits_anonymous


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"max_waiting": 0}, "max_waiting"),
        ({"max_waiting": True}, "max_waiting"),
        ({"max_waiting": "7"}, "max_waiting"),
        ({"request_deadline_seconds": 1e999}, "request_deadline_seconds"),
        ({"log_level": "LOUD"}, "log_level"),
        ({"origins": ["a b"]}, "origins"),
        ({"origins": ["x"] * 101}, "origins"),
        ({"max_wating": 7}, "max_wating"),
        ([], ""),
    ],
)
async def test_what_is_no_setting_is_refused_by_name(gateway: Gateway, body: Any, field: str) -> None:
    async with gateway.caller("admin") as http:
        content = str(body).replace("'", '"').replace("True", "true").replace("inf", "1e999")
        refused = await http.put(PATH, content=content)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
    assert field in refused.json()["error"]["message"]
    assert (await system_config.in_force(gateway.ctx.db)).version == 1


@pytest.mark.parametrize(
    ("role", "reads", "changes"),
    [("admin", 200, 200), ("operator", 200, 403), ("readonly", 200, 403), ("user", 403, 403)],
)
async def test_who_may(gateway: Gateway, role: str, reads: int, changes: int) -> None:
    async with gateway.caller(role) as http:
        assert (await http.get(PATH)).status_code == reads
        assert (await http.get(f"{PATH}/history")).status_code == reads
        assert (await http.put(PATH, json={"max_waiting": 7})).status_code == changes


async def test_a_page_that_is_none(gateway: Gateway) -> None:
    async with gateway.caller("admin") as http:
        for cursor in ("x", "W10=", "WyJhIl0=", "WzFd" * 50):
            assert (await http.get(f"{PATH}/history", params={"cursor": cursor})).status_code == 400
        huge = "Wzk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OV0="
        assert (await http.get(f"{PATH}/history", params={"cursor": huge})).json()["items"] == []
