"""One person's data in all services at once: handed out without secrets, erased without a trace but the audit's id."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pyotp
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from libs.common import actor, outbox
from libs.common.bus.base import Bus, Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts import gateway, registry
from libs.common.contracts.auth.identity import VerifyKey
from libs.common.contracts.auth.keys import CreateKey
from libs.common.contracts.auth.privacy import EraseOwn, EraseUser, ExportUser, UserErased, UserExport
from libs.common.contracts.auth.second_factor import ActivateTotp, OfferTotp
from libs.common.contracts.auth.sessions import Login
from libs.common.contracts.auth.users import CreateUser
from libs.common.contracts.exports import ExportedRows
from libs.common.contracts.message import Message
from libs.common.contracts.scheduler.requests import Exchange
from libs.common.contracts.worker import InferenceFinished
from libs.common.database import EVERY_ORGANIZATION, Database
from libs.common.errors import Conflict, Forbidden, NotFound, Overloaded, Unauthenticated
from libs.common.runtime_config import RuntimeConfig
from libs.common.sealing import Place, Ring
from services.auth import identities, privacy
from services.auth.audit.log import open_log
from services.auth.context import Context
from services.auth.handlers import handlers as auth_handlers
from services.auth.keys import digest_of
from services.auth.ledger import open_ledger
from services.auth.passwords import Passwords
from services.auth.settings import Settings
from services.auth.signing import Signer
from services.auth.store import ledger as ledger_store
from services.gateway.handlers import handlers as gateway_handlers
from services.registry.handlers import handlers as registry_handlers
from services.scheduler.handlers import privacy as scheduler_privacy
from tests.fixtures.database import open_database
from tests.fixtures.suite import eventually
from tests.integration.auth.logins import act_in

ADMIN, PERSON, PASSWORD = "admin@example.com", "person@example.com", "a good password"
SEALING = Ring(bytes(32))
PROMPT = "what nobody else is to know"


@dataclass
class Installation:
    """The bus is the gateway's. ``admin_url``: of the database, for who sees everything."""

    auth: Context
    databases: dict[str, Database]
    bus: Bus
    admin_url: str


@pytest.fixture
async def installation(service_urls: dict[str, str], postgres_url: str) -> AsyncIterator[Installation]:
    """Auth as it is, of the others what is about persons; all relay what they have staged."""
    broker = MemoryBroker()
    async with AsyncExitStack() as stack:
        dbs = {name: await stack.enter_async_context(open_database(url)) for name, url in service_urls.items()}
        buses = {
            name: await stack.enter_async_context(MemoryBus.open(broker, name, f"{name}-1"))
            for name in ("auth", "registry", "scheduler", "gateway")
        }
        auth = await auth_context(dbs["auth"], buses["auth"])
        await buses["auth"].subscribe(auth_handlers, auth)
        others = {
            "scheduler": scheduler_privacy.handlers,
            "registry": about_persons("registry", registry_handlers, registry.ExportUser),
            "gateway": about_persons("gateway", gateway_handlers, gateway.ExportUser),
        }
        for name, handlers in others.items():
            await buses[name].subscribe(handlers, SimpleNamespace(db=dbs[name], sealing=SEALING))
        loops = [outbox.relay(dbs[name], buses[name], name) for name in service_urls]
        running = [asyncio.create_task(loop) for loop in (*loops, auth.audit.events.run())]
        url = make_conninfo(postgres_url, dbname=str(conninfo_to_dict(service_urls["auth"])["dbname"]))
        yield Installation(auth, dbs, buses["gateway"], url)
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def auth_context(db: Database, bus: Bus) -> Context:
    key = SecretStr(base64.b64encode(bytes(32)).decode())
    settings = Settings(secret_key=key, admin_email=ADMIN, admin_password=SecretStr(PASSWORD), bcrypt_rounds=4)
    ctx = Context(
        config=RuntimeConfig(settings),
        db=db,
        bus=bus,
        passwords=await Passwords.open(settings.bcrypt_rounds),
        signer=await Signer.open(db, settings.sealing(), settings.signing_key_days),
        audit=await open_log(db, settings.sealing()),
        sealing=settings.sealing(),
        ledger=open_ledger(db),
    )
    await identities.create_first_admin(ctx)
    return ctx


def about_persons(service: str, handlers: Handlers, export: type[Message]) -> Handlers:
    return Handlers(service, [each for each in handlers.subscriptions if each.message in (export, UserErased)])


async def log_in(installation: Installation, email: str, code: str = "") -> str:
    """The user's id; this task works in the session from here on."""
    session = await installation.bus.ask(Login(email=email, password=PASSWORD, code=code))
    act_in(session)
    return session.user.id


@dataclass
class Person:
    """``recovery``: codes, each good for a login. ``secrets``: all that must not get out."""

    id: str
    key: str
    recovery: list[str]
    secrets: list[str]


@pytest.fixture
async def person(installation: Installation) -> Person:
    """A user with something in every table that knows persons, and everything that must not get out."""
    await log_in(installation, ADMIN)
    await installation.bus.ask(CreateUser(email=PERSON, name="Somebody", password=PASSWORD))
    user_id = await log_in(installation, PERSON)
    key = await installation.bus.ask(CreateKey(name="mine"))
    secret = (await installation.bus.ask(OfferTotp(password=PASSWORD))).secret
    recovery = (await installation.bus.ask(ActivateTotp(code=pyotp.TOTP(secret).now()))).codes
    await used(installation, user_id, key.id, "r1")
    with pytest.raises(Unauthenticated):
        await installation.bus.ask(Login(email=PERSON, password="wrong"))
    async with installation.databases["auth"].transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute(
            "insert into invitations (organization_id, email, role, digest, invited_by, expires_at)"
            " select 'default', %s, 'user', 'd', id, now() + interval '1 day' from users where email = %s",
            [PERSON, ADMIN],
        )
    stored = await all_of(
        installation,
        "select password_hash from auth.users union all select digest from auth.api_keys"
        " union all select digest from auth.recovery_codes"
        " union all select encode(sealed_secret, 'hex') from auth.user_totp"
        " union all select unnest(array[refresh_digest, refresh_family]) from auth.user_sessions",
    )
    return Person(user_id, key.key, list(recovery), [key.key, secret, *recovery, PASSWORD, *stored])


async def used(installation: Installation, user_id: str, key_id: str, request_id: str) -> None:
    """A request of theirs has been billed, journalled and kept, and a model made."""
    now = time.time()
    ended = InferenceFinished(
        request_id=request_id, epoch=1, worker_id="w", organization_id="default", user_id=user_id, key_id=key_id,
        model="m", kind="chat", outcome="done", prompt_tokens=3, completion_tokens=4, accepted_at=now, granted_at=now,
        finished_at=now,
    )  # fmt: skip
    async with installation.databases["auth"].transaction(EVERY_ORGANIZATION) as tx:
        await ledger_store.insert_requests(tx, [ended])
    exchange = Exchange(answer=PROMPT).model_dump_json().encode()
    async with installation.databases["scheduler"].transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute(
            "insert into inference_requests (request_id, organization_id, user_id, key_id, model, kind, outcome,"
            " accepted_at, finished_at) values (%s, 'default', %s, %s, 'm', 'chat', 'done', now(), now())",
            [request_id, user_id, key_id],
        )
        await tx.execute(
            "insert into stored_exchanges (request_id, organization_id, user_id, sealed)"
            " values (%s, 'default', %s, %s)",
            [request_id, user_id, SEALING.seal(exchange, Place("stored_exchanges", "sealed", request_id))],
        )
    async with installation.databases["gateway"].transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute(
            "insert into files (id, organization_id, user_id, purpose, filename, complete, expires_at)"
            " values (%s, 'default', %s, 'batch', 'in.jsonl', true, now() + interval '1 day')",
            [f"file-{request_id}", user_id],
        )
        await tx.execute(
            "insert into batches (id, organization_id, user_id, endpoint, input_file_id, completion_window, expires_at)"
            " values (%s, 'default', %s, '/api/chat', 'f', '24h', now() + interval '1 day')",
            [f"batch_{request_id}", user_id],
        )
    async with installation.databases["registry"].transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute(
            "insert into models (host, namespace, model, tag, digest, manifest, weights, size, facts, created_by)"
            " values ('h', 'n', %s, 't', 'd', '{}', 'w', 1, '{}', %s)",
            [request_id, user_id],
        )


async def all_of(installation: Installation, statement: str) -> list[str]:
    async with await psycopg.AsyncConnection.connect(installation.admin_url) as connection:
        rows = await connection.execute(sql.SQL(statement))
        return [value for (value,) in await rows.fetchall() if value is not None]


async def tables_with(installation: Installation, *needles: str) -> set[str]:
    """Every table of every service that has any of these texts in any row."""
    tables = await all_of(
        installation,
        "select format('%I.%I', schemaname, tablename) from pg_tables"
        " where schemaname in ('auth', 'gateway', 'registry', 'scheduler')",
    )
    found = set()
    for table in tables:
        rows = await all_of(installation, f"select t::text from {table} as t")
        if any(needle in row for row in rows for needle in needles):
            found.add(table.partition("_20")[0])
    return found


def only_in(installation: Installation, person_id: str, tables: set[str]) -> Callable[[], Awaitable[bool]]:
    async def are() -> bool:
        return await tables_with(installation, person_id) == tables

    return are


async def another_organization(installation: Installation, member: str) -> str:
    """Its admin asks from here on, who has no say in any other."""
    boss = str(uuid4())
    async with installation.databases["auth"].transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("insert into organizations (id, name) values ('other', 'other')")
        await tx.execute(
            "insert into users (id, organization_id, email, password_hash) values (%s, 'other', 'b@example.com', '')",
            [boss],
        )
        await tx.execute(
            "insert into memberships (organization_id, user_id, role)"
            " values ('other', %s, 'admin'), ('other', %s, 'user')",
            [boss, member],
        )
    actor.become(actor.Actor(organization_id="other", user_id=boss))
    return "other"


def parts_of(export: UserExport) -> list[ExportedRows]:
    return [part for _, part in export if isinstance(part, ExportedRows)]


async def test_an_export_has_everything_and_no_secret(installation: Installation, person: Person) -> None:
    await log_in(installation, PERSON, person.recovery.pop())
    export = await installation.bus.ask(ExportUser())
    assert (export.profile["id"], export.profile["email"], export.profile["name"]) == (person.id, PERSON, "Somebody")
    assert {row["organization_id"] for row in export.memberships.rows} == {"default"}
    assert [row["name"] for row in export.keys.rows] == ["mine"]
    assert [row["role"] for row in export.invitations.rows] == ["user"]
    assert len(export.sessions.rows) == 2
    assert [(row["prompt_tokens"], row["completion_tokens"]) for row in export.usage.rows] == [(3, 4)]
    assert [row["request_id"] for row in export.requests.rows] == ["r1"]
    assert [row["answer"] for row in export.exchanges.rows] == [PROMPT]
    assert [row["model"] for row in export.models.rows] == ["r1"]
    assert [row["filename"] for row in export.files.rows] == ["in.jsonl"]
    assert [row["endpoint"] for row in export.batches.rows] == ["/api/chat"]
    assert not any(part.truncated for part in parts_of(export))
    text = json.dumps(export.model_dump(mode="json"))
    assert [secret for secret in person.secrets if secret in text] == []


async def test_nobody_waits_for_the_exports_of_others(installation: Installation, person: Person) -> None:
    await log_in(installation, PERSON, person.recovery.pop())
    asked = [installation.bus.ask(ExportUser()) for _ in range(30)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(answer) for answer in answers} == {UserExport, Overloaded}


async def test_an_export_tells_what_the_person_did(installation: Installation, person: Person) -> None:
    async def done() -> bool:
        export = await installation.bus.ask(ExportUser())
        return {"user_totp.insert", "login.succeeded"} <= {row["action"] for row in export.audit.rows}

    await log_in(installation, PERSON, person.recovery.pop())
    await eventually(done, "what they did is in the audit log")


async def test_nobody_gets_anothers_export(installation: Installation, person: Person) -> None:
    admin_id = await log_in(installation, ADMIN)
    assert (await installation.bus.ask(ExportUser(user_id=person.id))).profile["email"] == PERSON
    for stranger in (str(uuid4()), "no uuid"):
        with pytest.raises(NotFound):
            await installation.bus.ask(ExportUser(user_id=stranger))
    await log_in(installation, PERSON, person.recovery.pop())
    with pytest.raises(Forbidden):
        await installation.bus.ask(ExportUser(user_id=admin_id))


async def test_an_admin_sees_what_is_about_the_own_organization(installation: Installation, person: Person) -> None:
    """The person also works for another organization, whose admin asks."""
    other = await another_organization(installation, person.id)
    export = await installation.bus.ask(ExportUser(user_id=person.id))
    assert (export.organization_id, [row["organization_id"] for row in export.memberships.rows]) == (other, [other])
    rest = (export.keys, export.sessions, export.usage, export.requests, export.exchanges, export.models)
    assert [part.rows for part in rest] == [()] * 6
    with pytest.raises(Forbidden, match="other organizations"):
        await installation.bus.ask(EraseUser(user_id=person.id))


async def test_erased_is_every_trace_but_the_id_in_the_audit_log(installation: Installation, person: Person) -> None:
    before = await tables_with(installation, person.id)
    assert before >= {"auth.users", "auth.token_ledger", "auth.daily_usage", "scheduler.inference_requests",
                      "scheduler.stored_exchanges", "registry.models", "gateway.files", "gateway.batches"}  # fmt: skip
    await log_in(installation, ADMIN)
    await installation.bus.ask(EraseUser(user_id=person.id))

    await eventually(
        only_in(installation, person.id, {"auth.audit_log", "auth.erased_users"}), "the person is forgotten"
    )
    assert await tables_with(installation, PERSON, "Somebody", person.key) == set()
    assert await all_of(installation, "select request_id from scheduler.stored_exchanges") == []
    assert await all_of(installation, "select model from registry.models") == ["r1"]


async def test_usage_stays_counted(installation: Installation, person: Person) -> None:
    for number in range(4):
        await used(installation, person.id, str(uuid4()), f"another {number}")
    await privacy.forget_usage(installation.auth, person.id, at_once=2)
    sums = (
        "select row_to_json(t)::text from (select user_id, key_id, requests, prompt_tokens from auth.daily_usage) as t"
    )
    assert [json.loads(row) for row in await all_of(installation, sums)] == [
        {"user_id": "", "key_id": "", "requests": 5, "prompt_tokens": 15}
    ]
    persons = "select request_id from auth.token_ledger where user_id is not null or key_id is not null"
    assert await all_of(installation, persons) == []


async def test_nobody_who_counts_waits_for_all_that_is_forgotten(installation: Installation, person: Person) -> None:
    await log_in(installation, ADMIN)
    async with installation.databases["auth"].transaction(EVERY_ORGANIZATION) as tx:
        await tx.execute("select from token_ledger for update")
        await installation.bus.ask(EraseUser(user_id=person.id))
        await used(installation, str(uuid4()), str(uuid4()), "r2")
    await eventually(
        only_in(installation, person.id, {"auth.audit_log", "auth.erased_users"}), "the person is forgotten"
    )


async def test_what_still_ran_is_forgotten_too(installation: Installation, person: Person) -> None:
    await log_in(installation, ADMIN)
    await installation.bus.ask(EraseUser(user_id=person.id))
    await used(installation, person.id, str(uuid4()), "r2")
    await privacy.remind_now(installation.auth, again_seconds=0, for_seconds=3600)

    await eventually(
        only_in(installation, person.id, {"auth.audit_log", "auth.erased_users"}), "the person is forgotten"
    )
    await privacy.remind_now(installation.auth, again_seconds=3600, for_seconds=0)
    await eventually(only_in(installation, person.id, {"auth.audit_log"}), "even that there was somebody to forget")
    total = "select sum(requests)::text from auth.daily_usage"
    assert await all_of(installation, total) == ["2"]


async def test_who_is_erased_is_nobody_at_once(installation: Installation, person: Person) -> None:
    digest = digest_of(person.key)
    assert (await installation.bus.ask(VerifyKey(digest=digest))).user_id == person.id
    await log_in(installation, PERSON, person.recovery.pop())
    for password, code in (("wrong", ""), (PASSWORD, ""), (PASSWORD, "000000")):
        with pytest.raises(Forbidden):
            await installation.bus.ask(EraseOwn(password=password, code=code))
    await installation.bus.ask(EraseOwn(password=PASSWORD, code=person.recovery.pop()))
    with pytest.raises(Unauthenticated):
        await installation.bus.ask(VerifyKey(digest=digest))
    with pytest.raises(Unauthenticated, match="wrong email or password"):
        await installation.bus.ask(Login(email=PERSON, password=PASSWORD))


async def test_the_last_admin_stays(installation: Installation) -> None:
    admin_id = await log_in(installation, ADMIN)
    with pytest.raises(Conflict):
        await installation.bus.ask(EraseOwn(password=PASSWORD))
    with pytest.raises(Forbidden):
        await installation.bus.ask(EraseUser(user_id=admin_id))
    assert await log_in(installation, ADMIN) == admin_id


async def test_who_may_do_less_erases_nobody_who_may_more(installation: Installation, person: Person) -> None:
    admin_id = await log_in(installation, ADMIN)
    await log_in(installation, PERSON, person.recovery.pop())
    with pytest.raises(Forbidden):
        await installation.bus.ask(EraseUser(user_id=admin_id))
