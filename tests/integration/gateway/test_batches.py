"""Files and batches on a real Postgres and a real Redis, through their routes; inference and auth are played."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import uuid4

import httpx
import psycopg
import pytest
import redis.asyncio as redis
from starlette.datastructures import Headers
from starlette.types import Message

from libs.common import actor
from libs.common.contracts.auth.identity import AppliedLimits, DescribeCaller, Identity, Limits, VerifyKey
from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.tokens import Frame, StreamEnd, encode_frame
from libs.common.database import EVERY_ORGANIZATION, Database, Transaction
from libs.common.errors import Overloaded, RateLimited, ServiceError, StreamLost, Unauthenticated
from libs.common.limits.checks import DAY, Check
from libs.common.limits.store import State
from libs.common.redis_client import open_redis
from libs.common.runtime_config import RuntimeConfig
from libs.common.settings import RedisSettings
from libs.common.token_log.store import Append, TokenLogStore
from services.gateway import upkeep
from services.gateway.api import connection, openai
from services.gateway.api.door import Call
from services.gateway.api.openai import files as openai_files
from services.gateway.batches import batches, files
from services.gateway.batches.files import CHUNK_BYTES
from services.gateway.batches.lines import Answered, run_line
from services.gateway.batches.reading import place_of
from services.gateway.batches.runner import Runner
from services.gateway.context import Context, FrameStream
from services.gateway.durable.attempts import MOST_LOSSES, Later
from services.gateway.durable.following import Following
from services.gateway.lanes import run_lanes
from services.gateway.limits import LimitReached
from services.gateway.store import batch_lines as line_store
from services.gateway.store import batches as batch_store
from services.gateway.store.batch_lines import ClaimedLine
from tests.fixtures.builders import an_identity
from tests.fixtures.database import open_database
from tests.fixtures.gateway import Gateway, ScriptedStream, a_gateway, hello
from tests.fixtures.suite import eventually

CHAT = "/v1/chat/completions"


@pytest.fixture
async def db(service_urls: dict[str, str]) -> AsyncIterator[Database]:
    async with open_database(service_urls["gateway"]) as database:
        yield database


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.Redis]:
    async with open_redis(RedisSettings(url=redis_url)) as client:
        yield client


@dataclass
class Lane:
    """A gateway whose inference is ``play``, by request id."""

    gateway: Gateway
    play: Callable[[InferenceTask], ScriptedStream] = hello
    asked: dict[str, InferenceTask] = field(default_factory=dict)
    streams: list[ScriptedStream] = field(default_factory=list)

    @property
    def ctx(self) -> Context:
        return self.gateway.ctx

    async def start(
        self, _ctx: Context, _identity: Identity, _model: Any, task: InferenceTask, *, request_id: str, **more: Any
    ) -> FrameStream:
        assert more["priority"] == "idle"
        self.asked[request_id] = task
        stream = self.play(task)
        stream.request_id = request_id
        self.streams.append(stream)
        return stream

    def http(self, user: str = "u", organization: str = "o", role: str = "user") -> httpx.AsyncClient:
        identity = an_identity(role, user_id=user, organization_id=organization)
        self.gateway.bus.answers[VerifyKey] = lambda _query: identity
        return self.gateway.client(Authorization=f"Bearer omx_{user}-{organization}-{role}")

    async def upload(self, http: httpx.AsyncClient, lines: list[Any]) -> str:
        content = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        answer = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def begin(self, http: httpx.AsyncClient, lines: list[Any], endpoint: str = CHAT) -> str:
        body = {"input_file_id": await self.upload(http, lines), "endpoint": endpoint, "completion_window": "24h"}
        answer = await http.post("/v1/batches", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "validating"
        return str(answer.json()["id"])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = self.ctx.tasks.start(run_lanes(self.ctx), "batches")
        try:
            yield
        finally:
            self.ctx.draining.set()
            task.cancel()


@pytest.fixture
async def lane(db: Database, client: redis.Redis, redis_url: str) -> AsyncIterator[Lane]:
    async with a_gateway() as gateway:
        lane = Lane(gateway)
        token_log = TokenLogStore(client, RedisSettings(url=redis_url))
        gateway.ctx = replace(gateway.ctx, db=db, token_log=token_log, start_inference=cast(Any, lane.start))
        gateway.bus.answers[DescribeCaller] = lambda _query: acting()
        yield lane


def acting() -> Identity:
    who = actor.current()
    return an_identity("user", user_id=who.user_id, organization_id=who.organization_id)


def line(custom_id: str, content: str = "hi", **body: Any) -> dict[str, Any]:
    request = {"model": "m", "messages": [{"role": "user", "content": content}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": request}


async def status_of(http: httpx.AsyncClient, batch: str) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get(f"/v1/batches/{batch}")).json()
    return found


async def ended(http: httpx.AsyncClient, batch: str, status: str) -> dict[str, Any]:
    async def has() -> bool:
        return bool((await status_of(http, batch))["status"] == status)

    await eventually(has, f"the batch is {status}")
    return await status_of(http, batch)


async def content_of(http: httpx.AsyncClient, file: str | None) -> list[dict[str, Any]]:
    if file is None:
        return []
    return [json.loads(text) for text in (await http.get(f"/v1/files/{file}/content")).text.splitlines()]


async def test_a_file_is_kept_in_sealed_pieces_and_read_back(lane: Lane, db: Database) -> None:
    content = b"a secret prompt\n" * (3 * CHUNK_BYTES // 16)
    async with lane.http() as http:
        answer = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)})
        file = answer.json()
        assert {name: file[name] for name in ("object", "bytes", "filename", "purpose", "status")} == {
            "object": "file",
            "bytes": len(content),
            "filename": "in.jsonl",
            "purpose": "batch",
            "status": "processed",
        }
        assert (await http.get(f"/v1/files/{file['id']}")).json() == file
        assert (await http.get("/v1/files")).json()["data"] == [file]
        assert (await http.get(f"/v1/files/{file['id']}/content")).content == content
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            rows = await (await tx.execute("select sealed from file_chunks")).fetchall()
        assert len(rows) == 3
        assert not any(b"secret" in bytes(sealed) for (sealed,) in rows)
        assert (await http.delete(f"/v1/files/{file['id']}")).json() == {
            "id": file["id"],
            "object": "file",
            "deleted": True,
        }
        assert (await http.get(f"/v1/files/{file['id']}")).status_code == 404
    async with db.transaction(EVERY_ORGANIZATION) as tx:
        assert await (await tx.execute("select from file_chunks")).fetchall() == []


async def test_what_is_refused_leaves_nothing_behind(lane: Lane, db: Database) -> None:
    settings = lane.ctx.settings.model_copy(update={"file_bytes": 2048})
    lane.gateway.ctx = replace(lane.ctx, config=RuntimeConfig(settings))
    async with lane.http() as http:
        for data, files, status in [
            ({"purpose": "batch"}, {"file": ("in", b"x" * 3000)}, 413),
            ({"purpose": "fine-tune"}, {"file": ("in", b"x")}, 400),
            ({"purpose": "batch", "expires_after[anchor]": "created_at"}, {"file": ("in", b"x")}, 400),
            ({"purpose": "batch"}, {"other": ("in", b"x")}, 400),
        ]:
            answer = await http.post("/v1/files", data=data, files=files)
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]["type"] == "invalid_request_error"
        assert (await http.post("/v1/files", content=b"x")).status_code == 400

    async def is_empty() -> bool:
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            return not await (await tx.execute("select from files")).fetchall()

    await eventually(is_empty, "nothing is left")


async def test_who_keeps_too_much_adds_nothing(lane: Lane) -> None:
    async with lane.http() as http:
        file = await lane.upload(http, [line("a")])
        settings = lane.ctx.settings.model_copy(update={"organization_file_bytes": 10})
        lane.gateway.ctx = replace(lane.ctx, config=RuntimeConfig(settings))
    async with lane.http() as http:
        refused = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in", b"x")})
        body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        also_refused = await http.post("/v1/batches", json=body)
        assert (refused.status_code, also_refused.status_code) == (507, 507)
    async with lane.http("u", "other") as http:
        answer = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in", b"x")})
        assert answer.status_code == 200


async def test_uploads_at_once_do_not_each_take_what_is_left(lane: Lane) -> None:
    settings = lane.ctx.settings.model_copy(update={"organization_file_bytes": 10})
    lane.gateway.ctx = replace(lane.ctx, config=RuntimeConfig(settings))
    caller = an_identity("user", user_id="u", organization_id="o")
    first, second = [await files.upload(lane.ctx, caller, "in.jsonl") for _ in range(2)]
    for writer in (first, second):
        await writer.write(b"x" * 8)
        await writer.flush()
    outcomes = await asyncio.gather(first.complete(), second.complete(), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["File", "StorageFull"]


async def test_batches_begun_at_once_are_not_more_than_may_be_open(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_OPEN", 1)
    async with lane.http() as http:
        body = {"input_file_id": await lane.upload(http, [line("a")]), "endpoint": CHAT, "completion_window": "24h"}
        answers = await asyncio.gather(*(http.post("/v1/batches", json=body) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [429] * 7


async def test_who_takes_nothing_of_a_file_is_given_up(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PAUSE_SECONDS", 0.1)
    caller = an_identity("user", user_id="u", organization_id="o")
    async with lane.http() as http:
        file = await lane.upload(http, [line("a")])
    call = Call(lane.ctx, caller, Headers(), {"path_params": {"file_id": file}}, None)
    answer = await openai_files.content(call)
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    await asyncio.wait_for(answer(call.scope, receive, send), 10)
    assert [message.get("more_body") for message in sent] == [None, True]


async def test_a_batch_is_cancelled_while_its_input_is_read(lane: Lane, db: Database) -> None:
    async with lane.http() as http:
        batch = await lane.begin(http, [line("a")])
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            assert await batch_store.claim(tx, 60) is not None  # by a gateway that may be dead by now
        assert (await http.post(f"/v1/batches/{batch}/cancel")).json()["status"] == "cancelling"
        async with lane.running():
            done = await ended(http, batch, "cancelled")
        assert done["output_file_id"] is done["error_file_id"] is None


async def test_lists_go_on_after_the_last_one_seen(lane: Lane) -> None:
    async with lane.http() as http:
        made = [await lane.upload(http, [line(str(number))]) for number in range(5)]
        first = (await http.get("/v1/files", params={"limit": 2})).json()
        assert [file["id"] for file in first["data"]] == made[:2:-1]
        assert first["has_more"]
        rest = (await http.get("/v1/files", params={"after": first["last_id"]})).json()
        assert [file["id"] for file in rest["data"]] == made[2::-1]
        assert not rest["has_more"]
        oldest = (await http.get("/v1/files", params={"order": "asc", "limit": 1, "after": made[0]})).json()
        assert [file["id"] for file in oldest["data"]] == [made[1]]
        assert (await http.get("/v1/files", params={"purpose": "batch_output"})).json()["data"] == []
        assert (await http.get("/v1/files", params={"limit": "0"})).status_code == 400
        assert (await http.get("/v1/files", params={"status": "processed"})).status_code == 400


async def test_what_is_others_is_not_there(lane: Lane) -> None:
    async with lane.http() as http:
        file = await lane.upload(http, [line("a")])
        body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        batch = (await http.post("/v1/batches", json=body)).json()["id"]
    for stranger in (lane.http("u", "other", "admin"), lane.http("v", "o")):
        async with stranger as http:
            for method, path in [
                ("GET", f"/v1/files/{file}"),
                ("GET", f"/v1/files/{file}/content"),
                ("DELETE", f"/v1/files/{file}"),
                ("GET", f"/v1/batches/{batch}"),
                ("POST", f"/v1/batches/{batch}/cancel"),
            ]:
                answer = await http.request(method, path)
                assert answer.status_code == 404, path
                assert answer.json()["error"]["code"] == "not_found"
            assert (await http.post("/v1/batches", json=body)).status_code == 404
            assert (await http.get("/v1/files")).json()["data"] == []
            assert (await http.get("/v1/batches")).json()["data"] == []
    async with lane.http("boss", "o", "admin") as http:
        assert (await http.get(f"/v1/files/{file}/content")).status_code == 200


async def test_ids_and_names_that_a_database_cannot_hold_are_refused(lane: Lane) -> None:
    async with lane.http() as http:
        for method, path in [
            ("GET", "/v1/files/%00"),
            ("GET", "/v1/files/%00/content"),
            ("DELETE", "/v1/files/%00"),
            ("GET", "/v1/batches/%00"),
            ("POST", "/v1/batches/%00/cancel"),
        ]:
            assert (await http.request(method, path)).status_code == 404, path
        body = {"input_file_id": "\0", "endpoint": CHAT, "completion_window": "24h"}
        assert (await http.post("/v1/batches", json=body)).status_code == 404


async def test_nobody_without_credentials_stores_anything(lane: Lane) -> None:
    async with lane.gateway.client() as http:
        for path in ("/v1/files", "/v1/batches"):
            assert (await http.get(path)).status_code == 401


async def test_who_may_not_run_requests_stores_nothing(lane: Lane) -> None:
    async with lane.http(role="readonly") as http:
        for route in openai.routes:
            if "/models" in route.path:
                continue  # others may look at them
            [method] = sorted(route.methods or ())
            answer = await http.request(method, route.path.format(file_id="a", batch_id="a", response_id="a", name="a"))
            assert answer.status_code == 403, route.path


async def test_every_line_is_answered_once_in_its_place(lane: Lane) -> None:
    def play(task: InferenceTask) -> ScriptedStream:
        text = task.messages[0].content
        return ScriptedStream().fail(ServiceError("broken")) if text == "3" else ScriptedStream().say(text, end=END)

    lane.play = play
    lines = [line(f"id-{number}", str(number)) for number in range(20)]
    lines.append(line("unknown", model="nothing"))
    lines.append(line("many", n=99))
    async with lane.http() as http, lane.running():
        batch = await lane.begin(http, lines)
        done = await ended(http, batch, "completed")
        assert done["request_counts"] == {"total": 22, "completed": 19, "failed": 3}
        output = await content_of(http, done["output_file_id"])
        assert [each["custom_id"] for each in output] == [f"id-{number}" for number in range(20) if number != 3]
        assert [each["response"]["body"]["choices"][0]["message"]["content"] for each in output] == [
            str(number) for number in range(20) if number != 3
        ]
        assert {each["response"]["request_id"] for each in output} <= set(lane.asked)
        errors = await content_of(http, done["error_file_id"])
        assert [(each["custom_id"], each["response"]["status_code"]) for each in errors] == [
            ("id-3", 500),
            ("unknown", 404),
            ("many", 400),
        ]
        assert (await http.get(f"/v1/files/{done['output_file_id']}")).json()["purpose"] == "batch_output"
    assert len(lane.asked) == 20


END = StreamEnd()


async def test_ollamas_own_routes_are_whole_answers_too(lane: Lane) -> None:
    body = {"model": "m", "prompt": "hi", "stream": True}
    async with lane.http() as http, lane.running():
        request = {"custom_id": "a", "method": "POST", "url": "/api/generate", "body": body}
        done = await ended(http, await lane.begin(http, [request], "/api/generate"), "completed")
        (answer,) = await content_of(http, done["output_file_id"])
        assert answer["response"]["body"]["response"] == "Hello"
        assert answer["response"]["body"]["done"] is True


async def test_openais_routes_refuse_to_stream(lane: Lane) -> None:
    lines = [line("a", stream=True), line("b", Stream=True), line("c", stream=False), line("d", stream=None)]
    async with lane.http() as http, lane.running():
        done = await ended(http, await lane.begin(http, lines), "completed")
        assert [each["custom_id"] for each in await content_of(http, done["output_file_id"])] == ["c", "d"]
        errors = await content_of(http, done["error_file_id"])
        assert [(each["custom_id"], each["response"]["status_code"]) for each in errors] == [("a", 400), ("b", 400)]


async def test_responses_are_stored_and_never_in_the_background(lane: Lane) -> None:
    def response(custom_id: str, **body: Any) -> dict[str, Any]:
        asked = {"model": "m", "input": "hi", **body}
        return {"custom_id": custom_id, "method": "POST", "url": "/v1/responses", "body": asked}

    lines = [response("a", store=True), response("b", background=True)]
    async with lane.http() as http, lane.running():
        done = await ended(http, await lane.begin(http, lines, "/v1/responses"), "completed")
        (answer,) = await content_of(http, done["output_file_id"])
        stored = answer["response"]["body"]
        assert (await http.get(f"/v1/responses/{stored['id']}")).json() == stored
        (error,) = await content_of(http, done["error_file_id"])
        assert (error["custom_id"], error["response"]["body"]["error"]["param"]) == ("b", "background")


async def test_a_bad_file_says_which_lines_are_wrong(lane: Lane) -> None:
    bad = ["{", line("a"), line("a"), {**line("b"), "url": "/api/chat"}, {**line("c"), "method": "GET"}, "", "[]"]
    async with lane.http() as http, lane.running():
        failed = await ended(http, await lane.begin(http, bad), "failed")
        assert [(each["line"], each["code"]) for each in failed["errors"]["data"]] == [
            (1, "invalid_json_line"),
            (3, "duplicate_custom_id"),
            (4, "mismatched_endpoint"),
            (5, "invalid_method"),
            (7, "invalid_json_line"),
        ]
        assert failed["failed_at"] is not None
        failed = await ended(http, await lane.begin(http, ["", ""]), "failed")
        assert failed["errors"]["data"][0]["code"] == "empty_file"
    assert not lane.asked


async def test_a_line_that_only_a_lenient_reader_understands_is_one_like_any_other(lane: Lane) -> None:
    lenient = [json.dumps(line("a")) + " and more", json.dumps(line("b")).replace('"b"', '"\\ud800"')]
    async with lane.http() as http, lane.running():
        done = await ended(http, await lane.begin(http, lenient), "completed")
        assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
        output = await content_of(http, done["output_file_id"])
        assert [each["custom_id"] for each in output] == ["a", "\ufffd"]


async def test_who_looks_and_finds_nothing_wakes_nobody(lane: Lane, service_urls: dict[str, str]) -> None:
    """Else gateways that have nothing to do would keep each other busy."""
    async with await psycopg.AsyncConnection.connect(service_urls["gateway"], autocommit=True) as listening:
        await listening.execute("listen batches_gateway")
        await Runner(lane.ctx).look()
        await listening.execute("notify batches_gateway, 'the first'")
        async for notification in listening.notifies(timeout=20, stop_after=1):
            assert notification.payload == "the first"


async def test_a_refused_line_waits_and_is_a_request_of_its_own_later(lane: Lane) -> None:
    failing: list[ServiceError] = [RateLimited(retry_after=1), Overloaded(retry_after=1), StreamLost()]

    def play(task: InferenceTask) -> ScriptedStream:
        return ScriptedStream().fail(failing.pop(0)) if failing else hello(task)

    lane.play = play
    async with lane.http() as http, lane.running():
        done = await ended(http, await lane.begin(http, [line("a")]), "completed")
        assert done["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    assert len(lane.asked) == 4


async def test_a_line_that_is_lost_each_time_has_that_for_its_answer(lane: Lane) -> None:
    lane.play = lambda _task: ScriptedStream().fail(StreamLost())
    async with lane.http() as http, lane.running():
        done = await ended(http, await lane.begin(http, [line("a")]), "completed")
        (answer,) = await content_of(http, done["error_file_id"])
    assert answer["response"]["body"]["error"]["code"] == "stream_lost"
    assert len(lane.asked) == MOST_LOSSES + 1


async def run(lane: Lane, play: Callable[[InferenceTask], ScriptedStream], **changed: Any) -> Answered | Later:
    """One line of a batch, under way for the first time."""
    lane.play = play
    fields = {"batch_id": uuid4().hex, "number": 1, "tries": 0, "losses": 0, "organization_id": "o", "user_id": "u"}
    claimed = ClaimedLine(**{**fields, "key_id": None, "endpoint": CHAT, "sealed": b"", **changed})
    sealed = lane.ctx.sealing.seal(json.dumps(line("a")).encode(), place_of("sealed", claimed.id))
    claimed = replace(claimed, sealed=sealed)
    return await run_line(lane.ctx, claimed, Following(lane.ctx, claimed.request_id))


async def test_refusals_are_no_losses(lane: Lane) -> None:
    def lose(_task: InferenceTask) -> ScriptedStream:
        return ScriptedStream().fail(StreamLost())

    assert await run(lane, lose, tries=10 * MOST_LOSSES) == Later(lost=True)
    assert await run(lane, lose, tries=10 * MOST_LOSSES, losses=MOST_LOSSES - 1) == Later(lost=True)
    assert isinstance(await run(lane, lose, tries=MOST_LOSSES, losses=MOST_LOSSES), Answered)


def the_day_is_over() -> LimitReached:
    applied = AppliedLimits(scope="user", id="o/u", limits=Limits(tokens_per_day=1))
    return LimitReached(State(Check("total", "tokens", "key", 1, 1, applied, DAY), 0, 3600.0, 3600.0), ())


async def test_a_day_that_runs_out_in_the_middle_is_the_answer_and_not_paid_for_twice(lane: Lane) -> None:
    def break_off(_task: InferenceTask) -> ScriptedStream:
        return ScriptedStream().say("Hel").fail(the_day_is_over())

    def break_off_at_once(_task: InferenceTask) -> ScriptedStream:
        return ScriptedStream().fail(the_day_is_over())

    def refuse(_task: InferenceTask) -> ScriptedStream:
        raise the_day_is_over()

    for play in (break_off, break_off_at_once):
        outcome = await run(lane, play)
        assert isinstance(outcome, Answered)
        assert not outcome.succeeded
        assert json.loads(outcome.line)["response"]["status_code"] == 429
    assert isinstance(await run(lane, refuse), Later)


async def test_only_whose_claim_it_is_gives_a_line_back(lane: Lane, db: Database) -> None:
    """It was away from Postgres, and says late that its try was refused."""

    async def claim(by: str, seconds: float) -> ClaimedLine | None:
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            return await line_store.claim(tx, by, seconds)

    async with lane.http() as http:
        batch = await lane.begin(http, [line("a")])
    async with db.transaction("o") as tx:
        await line_store.insert(tx, batch, "o", [(1, b"x")])
        await batch_store.begin(tx, batch, 1)
    first, second = await claim("first", 0), await claim("second", 60)
    assert first == second
    assert first is not None
    async with db.transaction("o") as tx:
        await line_store.keep_claims(tx, "first", [first.id], 0)
        await line_store.give_back(tx, "first", first, lost=False, asked=True)
    assert await claim("third", 60) is None
    async with db.transaction("o") as tx:
        await line_store.give_back(tx, "second", first, lost=True, asked=True)
    again = await claim("third", 60)
    assert again == replace(first, tries=1, losses=1)


async def test_who_may_no_longer_run_requests_gets_a_clear_error_for_each_line(lane: Lane) -> None:
    def refuse(_query: DescribeCaller) -> Identity:
        raise Unauthenticated

    lane.gateway.bus.answers[DescribeCaller] = refuse
    async with lane.http() as http, lane.running():
        done = await ended(http, await lane.begin(http, [line("a"), line("b")]), "completed")
        assert done["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
        assert done["output_file_id"] is None
        errors = await content_of(http, done["error_file_id"])
        assert [(each["custom_id"], each["error"]["code"]) for each in errors] == [
            ("a", "unauthenticated"),
            ("b", "unauthenticated"),
        ]


async def test_a_cancelled_batch_stops_what_runs_and_hands_out_what_is_done(lane: Lane) -> None:
    def play(task: InferenceTask) -> ScriptedStream:
        return hello(task) if task.messages[0].content == "quick" else ScriptedStream().say("and so")

    lane.play = play
    async with lane.http() as http, lane.running():
        batch = await lane.begin(http, [line("a", "quick"), *(line(f"slow-{number}") for number in range(20))])

        async def is_busy() -> bool:
            counts = (await status_of(http, batch))["request_counts"]
            return counts["completed"] == 1 and len(lane.asked) == 1 + lane.ctx.settings.batch_lines // 2

        await eventually(is_busy, "its lines run")
        assert (await http.post(f"/v1/batches/{batch}/cancel")).json()["status"] == "cancelling"
        done = await ended(http, batch, "cancelled")
        assert [each["custom_id"] for each in await content_of(http, done["output_file_id"])] == ["a"]
        errors = await content_of(http, done["error_file_id"])
        assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
        assert len(errors) == 20
        assert all(stream.closed.is_set() for stream in lane.streams[1:])
        assert (await http.post(f"/v1/batches/{batch}/cancel")).json()["status"] == "cancelled"


async def test_a_batch_whose_time_is_over_hands_out_what_is_done(lane: Lane, db: Database) -> None:
    lane.play = lambda task: hello(task) if task.messages[0].content == "quick" else ScriptedStream()
    async with lane.http() as http, lane.running():
        batch = await lane.begin(http, [line("a", "quick"), line("b")])

        async def has_begun() -> bool:
            return len(lane.asked) == 2

        await eventually(has_begun, "its lines run")
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            await tx.execute("update batches set expires_at = now()")
        done = await ended(http, batch, "expired")
        assert len(await content_of(http, done["output_file_id"])) == 1
        (error,) = await content_of(http, done["error_file_id"])
        assert (error["custom_id"], error["error"]["code"]) == ("b", "batch_expired")


@pytest.mark.parametrize("n", [1, 2])
async def test_a_line_taken_over_follows_the_requests_that_run_already(lane: Lane, n: int) -> None:
    """Its gateway died; the answers are in the token log."""
    async with lane.http() as http:
        batch = await lane.begin(http, [line("a", n=n)])
        first, second = Runner(lane.ctx), Runner(lane.ctx)
        await first.look()

        async def can_run() -> bool:
            await first.look()
            return len(lane.asked) == n

        lane.play = lambda _task: ScriptedStream()  # nothing comes any more
        await eventually(can_run, "the line runs")
        request_ids = list(lane.asked)
        for request_id in request_ids:
            await append(lane.ctx.token_log, request_id, "Hel", "lo")
        async with lane.ctx.db.transaction(EVERY_ORGANIZATION) as tx:
            await tx.execute("update batch_lines set claimed_until = now()")

        async def is_done() -> bool:
            await second.look()
            return bool((await status_of(http, batch))["status"] == "completed")

        await eventually(is_done, "the other gateway goes on")
        assert list(lane.asked) == request_ids
        (answer,) = await content_of(http, (await status_of(http, batch))["output_file_id"])
        assert answer["response"]["request_id"] == request_ids[0]
        choices = answer["response"]["body"]["choices"]
        assert [choice["message"]["content"] for choice in choices] == ["Hello"] * n


async def test_a_gateway_that_ends_leaves_its_requests_to_the_next(lane: Lane) -> None:
    lane.play = lambda _task: ScriptedStream().say("and so")
    async with lane.http() as http:
        await lane.begin(http, [line("a")])
        ending = Runner(lane.ctx)

        async def runs() -> bool:
            await ending.look()
            return bool(lane.streams)

        await eventually(runs, "the line runs")
        (running,) = ending.lines.under_way.values()
        running.task.cancel()
        await asyncio.wait({running.task})
    assert not lane.streams[0].closed.is_set()


async def append(token_log: TokenLogStore, request_id: str, *words: str) -> None:
    frames = [Frame(request_id, 1, seq, word) for seq, word in enumerate(words, 1)]
    frames.append(Frame(request_id, 1, len(words) + 1, end=END))
    await token_log.append("", [Append(request_id, 1, 1, True, [encode_frame(frame) for frame in frames])])


async def test_a_line_is_answered_once_and_not_while_the_output_is_written(lane: Lane, db: Database) -> None:
    async with lane.http() as http:
        batch = await lane.begin(http, [line("a"), line("b")])
    async with db.transaction("o") as tx:
        claimed = await batch_store.claim(tx, 60)
        assert claimed is not None
        await line_store.insert(tx, batch, "o", [(1, b"x"), (2, b"y")])
        await line_store.insert(tx, batch, "o", [(1, b"z")])
        assert await batch_store.begin(tx, batch, 2)
        assert not await batch_store.begin(tx, batch, 2)
    async with db.transaction("o") as tx:
        assert await line_store.answer(tx, batch, 1, b"1", succeeded=True)
        assert not await line_store.answer(tx, batch, 1, b"2", succeeded=False)
        await batch_store.cancel(tx, batch, None)
    async with db.transaction("o") as tx:
        assert (await batch_store.claim(tx, 60)) is not None
        assert not await line_store.answer(tx, batch, 2, b"late", succeeded=True)
    async with db.transaction("o") as tx:
        assert await batch_store.finish(tx, batch, "cancelled", None, None)
        assert not await batch_store.finish(tx, batch, "cancelled", None, None)
        found = await batch_store.get(tx, batch, None)
        assert found is not None
        assert (found.completed, found.failed) == (1, 0)


async def test_organizations_take_turns(lane: Lane, db: Database) -> None:
    for organization in ("o", "p"):
        async with lane.http("u", organization) as http:
            batch = await lane.begin(http, [line("a")])
        async with db.transaction(organization) as tx:
            await line_store.insert(tx, batch, organization, [(number, b"x") for number in range(5)])
            await batch_store.begin(tx, batch, 5)
    taken = []
    for _ in range(6):
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            claimed = await line_store.claim(tx, "somebody", 60)
            assert claimed is not None
            taken.append((claimed.organization_id, claimed.number))
    assert taken == [("o", 0), ("p", 0), ("o", 1), ("p", 1), ("o", 2), ("p", 2)]


async def test_no_organization_takes_all_of_a_gateway(lane: Lane) -> None:
    """Its lines may wait for a model that nobody can load, for as long as a request may wait."""
    lane.play = lambda task: hello(task) if task.messages[0].content == "quick" else ScriptedStream()
    async with lane.running():
        async with lane.http("u", "o") as http:
            await lane.begin(http, [line(f"stuck-{number}") for number in range(40)])

            async def is_stuck() -> bool:
                return len(lane.asked) == lane.ctx.settings.batch_lines // 2

            await eventually(is_stuck, "its lines run")
        async with lane.http("u", "p") as http:
            await ended(http, await lane.begin(http, [line("a", "quick")]), "completed")
    assert len(lane.asked) == 1 + lane.ctx.settings.batch_lines // 2


async def test_a_person_and_an_organization_are_forgotten_with_what_they_stored(
    lane: Lane, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user, organization in (("u", "o"), ("v", "o"), ("w", "p")):
        async with lane.http(user, organization) as http:
            await lane.begin(http, [line("a")])

    async def owners() -> list[tuple[str, int]]:
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            rows = await tx.execute(
                """
                select user_id, count(*) from (select user_id from files union all select user_id from batches) as all_
                group by 1 order by 1
                """
            )
            return [(user, count) for user, count in await rows.fetchall()]

    async def pieces() -> int:
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            return len(await (await tx.execute("select from file_chunks")).fetchall())

    async with db.transaction(EVERY_ORGANIZATION) as tx:
        rows = await (await tx.execute("select id, organization_id from batches")).fetchall()
        for batch, organization in rows:
            await line_store.insert(tx, batch, organization, [(number, b"x") for number in range(5)])
            await batch_store.begin(tx, batch, 5)
    portions: list[int] = []

    async def empty(tx: Transaction, user_id: str | None, most: int) -> int:
        portions.append(await delete_lines(tx, user_id, most))
        return portions[-1]

    delete_lines = batch_store.empty
    monkeypatch.setattr(batch_store, "empty", empty)
    monkeypatch.setattr(batches, "LINES_AT_ONCE", 2)
    assert (await owners(), await pieces()) == ([("u", 2), ("v", 2), ("w", 2)], 3)
    await batches.forget_user(lane.ctx, "u")
    assert portions == [2, 2, 1, 0], "more than one statement may delete in its time"
    assert (await owners(), await pieces()) == ([("v", 2), ("w", 2)], 2)
    await batches.forget_organization(lane.ctx, "o")
    assert (await owners(), await pieces()) == ([("w", 2)], 1)


async def test_changes_are_audited_without_what_is_in_them(lane: Lane, db: Database) -> None:
    async with lane.http() as http, lane.running():
        batch = await lane.begin(http, [line("a", "a secret prompt")])
        done = await ended(http, batch, "completed")
        await http.delete(f"/v1/files/{done['input_file_id']}")
    async with db.transaction() as tx:
        rows = await (await tx.execute("select body::text from outbox order by id")).fetchall()
    actions = [json.loads(body)["action"] for (body,) in rows]
    assert actions.count("files.insert") == 2
    assert actions.count("files.delete") == 1
    assert actions[:2] == ["files.insert", "batches.insert"]
    assert not any("secret prompt" in body for (body,) in rows)
    assert {json.loads(body)["user_id"] for (body,) in rows} == {"u"}


async def test_old_files_and_abandoned_uploads_are_deleted(lane: Lane, db: Database) -> None:
    async with lane.http() as http:
        expired, abandoned, kept = [await lane.upload(http, [line("a")]) for _ in range(3)]
        async with db.transaction(EVERY_ORGANIZATION) as tx:
            await tx.execute("update files set expires_at = now() where id = %s", [expired])
            await tx.execute(
                "update files set complete = false, created_at = now() - interval '2 hours' where id = %s", [abandoned]
            )
        loop = lane.ctx.tasks.start(upkeep.forget_old(lane.ctx), "forget")

        async def are_gone() -> bool:
            async with db.transaction(EVERY_ORGANIZATION) as tx:
                return await (await tx.execute("select id from files")).fetchall() == [(kept,)]

        await eventually(are_gone, "they are gone")
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
