"""Stored responses on a real Postgres and a real Redis, through their routes; inference and auth are played."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, cast
from uuid import NAMESPACE_OID, uuid5

import httpx
import pytest
import redis.asyncio as redis

from libs.common import actor
from libs.common.contracts.auth.identity import DescribeCaller, Identity, VerifyKey
from libs.common.contracts.gateway import InferenceCancelled
from libs.common.contracts.inference import InferenceTask
from libs.common.contracts.tokens import Frame, encode_frame
from libs.common.database import EVERY_ORGANIZATION, Database
from libs.common.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    ServiceError,
    StreamLost,
    Unauthenticated,
    Unavailable,
)
from libs.common.runtime_config import RuntimeConfig
from libs.common.settings import RedisSettings
from libs.common.token_log.store import Append, TokenLogStore, log_key
from services.gateway import upkeep
from services.gateway.batches import batches
from services.gateway.context import Context, FrameStream
from services.gateway.durable.lane import Lane
from services.gateway.lanes import run_lanes
from services.gateway.responses import background, keeping
from services.gateway.responses.background import Ended, InBackground
from services.gateway.responses.memory import Turns
from services.gateway.store import responses as response_store
from services.gateway.store.responses import StoredResponse
from tests.fixtures.builders import an_identity
from tests.fixtures.database import open_database
from tests.fixtures.gateway import END, Gateway, ScriptedStream, a_gateway, hello
from tests.fixtures.suite import eventually

PATH = "/v1/responses"
STRANGERS = (("u", "other", "admin"), ("v", "o", "user"))


@dataclass
class House:
    """A gateway whose inference is ``play``, by request id."""

    gateway: Gateway
    db: Database
    play: Callable[[InferenceTask], ScriptedStream] = hello
    asked: dict[str, InferenceTask] = field(default_factory=dict)
    priorities: set[str] = field(default_factory=set)
    streams: list[ScriptedStream] = field(default_factory=list)

    @property
    def ctx(self) -> Context:
        return self.gateway.ctx

    async def start(
        self, _ctx: Context, _identity: Identity, _model: Any, task: InferenceTask, **more: Any
    ) -> FrameStream:
        stream = self.play(task)
        stream.request_id = more["request_id"] or stream.request_id
        self.asked[stream.request_id] = task
        self.priorities.add(more["priority"])
        self.streams.append(stream)
        return stream

    def http(self, user: str = "u", organization: str = "o", role: str = "user", **more: Any) -> httpx.AsyncClient:
        caller = an_identity(role, user_id=user, organization_id=organization, **more)
        self.gateway.bus.answers[VerifyKey] = lambda _query: caller
        return self.gateway.client(Authorization=f"Bearer omx_{user}-{organization}-{role}-{len(more)}")

    def set(self, **settings: Any) -> None:
        changed = self.ctx.settings.model_copy(update=settings)
        self.gateway.ctx = replace(self.ctx, config=RuntimeConfig(changed))

    def forget_turns(self) -> None:
        """What another gateway would know."""
        self.gateway.ctx = replace(self.ctx, turns=Turns())

    def lane(self) -> Lane[StoredResponse, Ended]:
        """Of one more gateway."""
        return Lane(self.ctx, InBackground(), asyncio.Event())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = self.ctx.tasks.start(run_lanes(self.ctx), "lanes")
        try:
            yield
        finally:
            self.ctx.draining.set()
            task.cancel()

    async def log(self, request_id: str, *words: str) -> None:
        frames = [Frame(request_id, 1, seq, word) for seq, word in enumerate(words, 1)]
        frames.append(Frame(request_id, 1, len(words) + 1, end=END))
        append = Append(request_id, 1, 1, True, [encode_frame(frame) for frame in frames])
        await self.ctx.token_log.append("", [append])

    async def rows(self, columns: str = "id") -> list[tuple[Any, ...]]:
        async with self.db.transaction(EVERY_ORGANIZATION) as tx:
            found = await tx.execute(cast(Any, f"select {columns} from responses order by created_at, id"))
            return await found.fetchall()

    async def execute(self, statement: str) -> None:
        async with self.db.transaction(EVERY_ORGANIZATION) as tx:
            await tx.execute(cast(Any, statement))


def acting() -> Identity:
    who = actor.current()
    return an_identity("user", user_id=who.user_id, organization_id=who.organization_id)


@pytest.fixture
async def house(service_urls: dict[str, str], client: redis.Redis, redis_url: str) -> AsyncIterator[House]:
    async with open_database(service_urls["gateway"]) as db, a_gateway() as gateway:
        house = House(gateway, db)
        token_log = TokenLogStore(client, RedisSettings(url=redis_url))
        gateway.ctx = replace(gateway.ctx, db=db, token_log=token_log, start_inference=cast(Any, house.start))
        gateway.bus.answers[DescribeCaller] = lambda _query: acting()
        yield house


async def ask(http: httpx.AsyncClient, text: Any = "hi", **body: Any) -> dict[str, Any]:
    answer = await http.post(PATH, json={"model": "m", "input": text, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def ended(http: httpx.AsyncClient, response: str, status: str) -> dict[str, Any]:
    shown: dict[str, Any] = {}

    async def has() -> bool:
        nonlocal shown
        shown = (await http.get(f"{PATH}/{response}")).json()
        return bool(shown["status"] == status)

    await eventually(has, f"the response is {status}")
    return shown


def said(task: InferenceTask) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in task.messages]


async def test_what_is_kept_is_sealed_and_read_back(house: House) -> None:
    async with house.http() as http:
        shown = await ask(http, "a secret prompt", store=True, metadata={"a": "b"})
        assert shown["store"] is True
        assert (
            await http.get(f"{PATH}/{shown['id']}", params={"include[]": "reasoning.encrypted_content"})
        ).json() == shown
        items = (await http.get(f"{PATH}/{shown['id']}/input_items")).json()
        assert [item["content"] for item in items["data"]] == [[{"type": "input_text", "text": "a secret prompt"}]]
        ((request, response),) = await house.rows("sealed_request, sealed_response")
        assert b"secret" not in bytes(request) + bytes(response)
        deleted = await http.delete(f"{PATH}/{shown['id']}")
        assert deleted.json() == {"id": shown["id"], "object": "response", "deleted": True}
        for method in ("GET", "DELETE"):
            assert (await http.request(method, f"{PATH}/{shown['id']}")).status_code == 404
        again = await http.post(PATH, json={"model": "m", "input": "x", "previous_response_id": shown["id"]})
        assert again.status_code == 400
    assert await house.rows() == []


async def test_a_stream_is_kept_before_its_end_is_told(house: House) -> None:
    async with (
        house.http() as http,
        http.stream("POST", PATH, json={"model": "m", "input": "hi", "store": True, "stream": True}) as answer,
    ):
        events = [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: ")]
        last = events[-1]["response"]
        kept = (await http.get(f"{PATH}/{last['id']}")).json()
    assert (events[-1]["type"], kept | {"completed_at": None}) == ("response.completed", last)


async def test_who_says_nothing_is_kept_as_the_organization_wants_it(house: House) -> None:
    async with house.http() as http:
        assert (await ask(http))["store"] is False
    async with house.http(stores_prompts=True) as http:
        kept = await ask(http)
        assert kept["store"] is True
        assert (await ask(http, store=False))["store"] is False
    assert await house.rows() == [(kept["id"],)]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_conversation_goes_on(house: House, elsewhere: bool) -> None:
    """Here from memory; elsewhere from the database."""
    async with house.http() as http:
        first = await ask(http, "one", store=True, instructions="be brief")
        second = await ask(http, "two", store=True, previous_response_id=first["id"])
        if elsewhere:
            house.forget_turns()
        third = await ask(http, "three", previous_response_id=second["id"])
        assert third["previous_response_id"] == second["id"]
        request = third["id"].removeprefix("resp_")
        dialogue = [("user", "one"), ("assistant", "Hello"), ("user", "two"), ("assistant", "Hello"), ("user", "three")]
        assert said(house.asked[request]) == dialogue
        items = (await http.get(f"{PATH}/{second['id']}/input_items")).json()["data"]
        assert [item["content"][0]["text"] for item in items] == ["two"]
        await http.delete(f"{PATH}/{first['id']}")
        house.forget_turns()
        body = {"model": "m", "input": "x", "previous_response_id": second["id"]}
        refused = await http.post(PATH, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "previous_response_not_found")
        assert first["id"] in refused.json()["error"]["message"]


async def test_what_goes_on_at_once_asks_no_database(house: House) -> None:
    async with house.http() as http:
        first = await ask(http, store=True)
        house.gateway.ctx = replace(house.ctx, db=cast(Any, None))
    async with house.http() as http:
        await ask(http, previous_response_id=first["id"])
    assert len(house.asked) == 2


async def test_an_item_is_known_by_its_id(house: House) -> None:
    async with house.http() as http:
        first = await ask(http, "one", store=True)
        given = (await http.get(f"{PATH}/{first['id']}/input_items")).json()["data"][0]["id"]
        references = [{"type": "item_reference", "id": each} for each in (given, first["output"][0]["id"])]
        second = await ask(http, [*references, {"role": "user", "content": "two"}], store=True)
        dialogue = [("user", "one"), ("assistant", "Hello"), ("user", "two")]
        assert said(house.asked[second["id"].removeprefix("resp_")]) == dialogue
        assert len((await http.get(f"{PATH}/{second['id']}/input_items")).json()["data"]) == 3
    for stranger in STRANGERS:
        async with house.http(*stranger) as http:
            refused = await http.post(PATH, json={"model": "m", "input": references})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input[0]")


async def test_items_that_are_only_named_have_a_size_too(house: House) -> None:
    house.set(max_body_bytes=5000)
    async with house.http() as http:
        long = await ask(http, "x" * 2000, store=True)
        given = (await http.get(f"{PATH}/{long['id']}/input_items")).json()["data"][0]["id"]
        for count, status in ((2, 200), (3, 400)):
            body = {"model": "m", "input": [{"type": "item_reference", "id": given}] * count}
            assert (await http.post(PATH, json=body)).status_code == status


async def test_items_are_listed_page_by_page(house: House) -> None:
    async with house.http() as http:
        given = [{"role": "user", "content": str(number)} for number in range(5)]
        path = f"{PATH}/{(await ask(http, given, store=True))['id']}/input_items"
        first = (await http.get(path, params={"limit": 2})).json()
        assert [item["content"][0]["text"] for item in first["data"]] == ["4", "3"]
        assert first["has_more"]
        rest = (await http.get(path, params={"after": first["last_id"]})).json()
        assert ([item["content"][0]["text"] for item in rest["data"]], rest["has_more"]) == (["2", "1", "0"], False)
        ascending = (await http.get(path, params={"order": "asc", "limit": 1})).json()
        assert ascending["data"][0]["content"][0]["text"] == "0"
        for wrong in ({"limit": 0}, {"order": "up"}, {"after": "nothing"}, {"before": "x"}):
            assert (await http.get(path, params=wrong)).status_code == 400


async def test_what_is_others_is_not_there(house: House) -> None:
    async with house.http() as http:
        shown = (await ask(http, store=True))["id"]
    for stranger in STRANGERS:
        async with house.http(*stranger) as http:
            for method, path in [
                ("GET", f"{PATH}/{shown}"),
                ("GET", f"{PATH}/{shown}?stream=true"),
                ("GET", f"{PATH}/{shown}/input_items"),
                ("POST", f"{PATH}/{shown}/cancel"),
                ("DELETE", f"{PATH}/{shown}"),
                ("GET", f"{PATH}/%00"),
            ]:
                assert (await http.request(method, path)).status_code == 404, path
            body = {"model": "m", "input": "x", "previous_response_id": shown}
            assert (await http.post(PATH, json=body)).json()["error"]["code"] == "previous_response_not_found"
    async with house.http("boss", "o", "admin") as http:
        assert (await http.get(f"{PATH}/{shown}")).status_code == 200
    async with house.gateway.client() as http:
        assert (await http.get(f"{PATH}/{shown}")).status_code == 401


class Away:
    """A database that is not there."""

    def transaction(self, _organization: str) -> AbstractAsyncContextManager[None]:
        raise Unavailable


async def test_an_answer_is_given_though_it_cannot_be_kept(house: House) -> None:
    house.gateway.ctx = replace(house.ctx, db=cast(Any, Away()))
    async with house.http() as http:
        answered = await ask(http, store=True)
        assert (answered["status"], answered["store"]) == ("completed", False)
        refused = await http.post(PATH, json={"model": "m", "input": "x", "background": True})
        assert refused.status_code == 503


async def test_what_is_old_or_too_much_is_forgotten(house: House) -> None:
    async with house.http() as http:
        expired, oldest, *newest = [(await ask(http, store=True))["id"] for _ in range(4)]
    async with house.http(organization="p") as http:
        newest.append((await ask(http, store=True))["id"])
    await house.execute(f"update responses set expires_at = now() where id = '{expired}'")
    for age, response in enumerate([*newest[::-1], oldest]):
        await house.execute(
            f"update responses set created_at = now() - interval '{age + 1} hours' where id = '{response}'"
        )
    size = max(bytes_ for (bytes_,) in await house.rows("bytes"))
    async with house.http() as http:
        assert (await http.get(f"{PATH}/{expired}")).status_code == 404
    house.set(organization_response_bytes=2 * size)
    loop = house.ctx.tasks.start(upkeep.forget_old(house.ctx), "forget")

    async def are_gone() -> bool:
        return {response for (response,) in await house.rows()} == set(newest)

    await eventually(are_gone, "they are gone")
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_what_runs_does_not_hide_what_is_too_much(house: House) -> None:
    async with house.http() as http:
        oldest = (await ask(http, store=True))["id"]
        await house.execute("update responses set created_at = now() - interval '1 hour'")
        for _ in range(2):
            await ask(http, background=True)
    async with house.db.transaction(EVERY_ORGANIZATION) as tx:
        assert await response_store.delete_beyond(tx, 0, 1) == 1
    assert (oldest,) not in await house.rows()


async def test_a_person_and_an_organization_are_forgotten_with_what_they_stored(house: House) -> None:
    for user, organization in (("u", "o"), ("v", "o"), ("w", "p")):
        async with house.http(user, organization) as http:
            await ask(http, store=True)
    exported = await batches.export(house.ctx, "u", "o")
    assert [row["status"] for row in exported.responses.rows] == ["completed"]
    await batches.forget_user(house.ctx, "u")
    assert sorted(await house.rows("user_id")) == [("v",), ("w",)]
    await batches.forget_organization(house.ctx, "o")
    assert await house.rows("user_id") == [("w",)]


async def test_a_response_in_the_background_is_answered_by_whoever_has_the_time(house: House) -> None:
    async with house.http() as http:
        first = await ask(http, "one", store=True)
        queued = await ask(http, "two", background=True, previous_response_id=first["id"])
        assert (queued["status"], queued["output"], queued["store"]) == ("queued", [], True)
        assert (await http.get(f"{PATH}/{queued['id']}")).json() == queued
        async with house.running():
            done = await ended(http, queued["id"], "completed")
        assert done["output"][0]["content"][0]["text"] == "Hello"
        assert done["usage"]["total_tokens"] == 8
        assert done["created_at"] == queued["created_at"]
        assert (await http.post(f"{PATH}/{queued['id']}/cancel")).json() == done
        assert (await http.post(f"{PATH}/{first['id']}/cancel")).status_code == 400
        await ask(http, "three", previous_response_id=queued["id"])
    assert said(list(house.asked.values())[-1])[-3:] == [("user", "two"), ("assistant", "Hello"), ("user", "three")]
    assert house.priorities == {"interactive", "batch"}


async def test_what_only_another_version_can_read_waits_for_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_here(*_given: Any) -> NoReturn:
        raise InvalidRequest("a field of tomorrow")

    async with house.http() as http:
        await ask(http, background=True)
    monkeypatch.setattr(keeping, "open_row", not_here)
    lane = house.lane()
    await lane.look()
    await eventually(lambda: _is(not lane.under_way), "it was looked at")
    assert await house.rows("status, tries, waits_until > now()") == [("queued", 0, True)]
    await house.execute("update responses set waits_until = now(), deadline_at = now()")
    await lane.look()
    await eventually(lambda: _is(not lane.under_way), "it was looked at again")
    assert await house.rows("status") == [("failed",)]


async def _is(so: bool) -> bool:
    return so


async def test_a_refused_response_waits_and_is_a_request_of_its_own_later(house: House) -> None:
    failing: list[ServiceError] = [Overloaded(retry_after=1), StreamLost()]
    house.play = lambda task: ScriptedStream().fail(failing.pop(0)) if failing else hello(task)
    async with house.http() as http, house.running():
        await ended(http, (await ask(http, background=True))["id"], "completed")
    assert len(house.asked) == 3


async def test_a_response_that_fails_says_why(house: House) -> None:
    def refuse(_query: DescribeCaller) -> Identity:
        raise Unauthenticated

    house.play = lambda _task: ScriptedStream().fail(EngineFailed("it broke"))
    async with house.http() as http, house.running():
        failed = await ended(http, (await ask(http, background=True))["id"], "failed")
        assert failed["error"] == {"code": "server_error", "message": "it broke"}
        house.play = lambda _task: ScriptedStream().fail(DeadlineExceeded())
        late = await http.post(
            PATH, json={"model": "m", "input": "x", "background": True}, headers={"X-Deadline-Ms": "1"}
        )
        failed = await ended(http, late.json()["id"], "failed")
        assert "deadline" in failed["error"]["message"]
        house.gateway.bus.answers[DescribeCaller] = refuse
        failed = await ended(http, (await ask(http, background=True))["id"], "failed")
        assert failed["error"]["message"] == "unauthorized"
        body = {"model": "m", "input": "x", "previous_response_id": failed["id"]}
        refused = await http.post(PATH, json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "previous_response_id")


async def test_what_is_wrong_is_said_at_once(house: House) -> None:
    async with house.http() as http:
        for wrong, status in (
            ({"model": "nothing"}, 404),
            ({"previous_response_id": "resp_0"}, 400),
            ({"input": []}, 400),
        ):
            answer = await http.post(PATH, json={"model": "m", "input": "x", "background": True, **wrong})
            assert answer.status_code == status
    assert await house.rows() == []


async def test_an_organization_has_only_so_many_open(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MOST_OPEN", 1)
    body = {"model": "m", "input": "x", "background": True}
    async with house.http() as http:
        answers = await asyncio.gather(*(http.post(PATH, json=body) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200] + [429] * 4


async def test_who_takes_it_over_follows_the_request_that_runs_already(house: House) -> None:
    """Its gateway died; the answer is in the token log."""
    house.play = lambda _task: ScriptedStream()
    async with house.http() as http:
        response = (await ask(http, background=True))["id"]
        dead, alive = house.lane(), house.lane()
        await dead.look()

        async def runs() -> bool:
            return len(house.asked) == 1

        await eventually(runs, "it runs")
        (request_id,) = house.asked
        await house.log(request_id, "Hel", "lo")
        await house.execute("update responses set claimed_until = now()")
        await alive.look()
        done = await ended(http, response, "completed")
    assert done["output"][0]["content"][0]["text"] == "Hello"
    assert list(house.asked) == [request_id]


async def test_who_takes_it_over_and_cannot_follow_yet_asks_for_nothing_new(house: House) -> None:
    """Its gateway died, and the rights of who asked for it are not to be had for a moment."""
    away = [1]

    def describe(_query: DescribeCaller) -> Identity:
        if away:
            away.pop()
            raise Unavailable
        return acting()

    async with house.http() as http:
        response = (await ask(http, background=True))["id"]
        await house.log(uuid5(NAMESPACE_OID, f"{response}/0").hex, "Hel", "lo")
        house.gateway.bus.answers[DescribeCaller] = describe
        async with house.running():
            done = await ended(http, response, "completed")
    assert not away
    assert done["output"][0]["content"][0]["text"] == "Hello"
    assert not house.asked


async def test_a_gateway_that_ends_leaves_its_requests_to_the_next(house: House) -> None:
    house.play = lambda _task: ScriptedStream().say("and so")
    async with house.http() as http:
        await ask(http, background=True)
    ending = house.lane()
    await ending.look()

    async def runs() -> bool:
        return bool(house.streams)

    await eventually(runs, "it runs")
    (running,) = ending.under_way.values()
    running.task.cancel()
    await asyncio.wait({running.task})
    assert not house.streams[0].closed.is_set()


@pytest.mark.parametrize("method", ["cancel", "delete"])
async def test_nobody_goes_on_with_what_is_not_wanted(house: House, method: str) -> None:
    house.play = lambda _task: ScriptedStream().say("and so")
    async with house.http() as http, house.running():
        response = (await ask(http, background=True))["id"]

        async def runs() -> bool:
            return bool(house.streams)

        await eventually(runs, "it runs")
        if method == "cancel":
            cancelled = (await http.post(f"{PATH}/{response}/cancel")).json()
            assert (cancelled["status"], cancelled["output"]) == ("cancelled", [])
            assert (await http.post(f"{PATH}/{response}/cancel")).json() == cancelled
            published = {
                event.request_id for event in house.gateway.bus.published if isinstance(event, InferenceCancelled)
            }
            assert published == set(house.asked)
        else:
            assert (await http.delete(f"{PATH}/{response}")).status_code == 200
        await asyncio.wait_for(house.streams[0].closed.wait(), 20)


async def test_one_that_nobody_has_begun_is_cancelled_for_good(house: House) -> None:
    async with house.http() as http:
        response = (await ask(http, background=True))["id"]
        assert (await http.post(f"{PATH}/{response}/cancel")).json()["status"] == "cancelled"
        await house.lane().look()
    assert not house.asked


async def stream(http: httpx.AsyncClient, response: str, **query: Any) -> bytes:
    answer = await http.get(f"{PATH}/{response}", params={"stream": "true", **query})
    assert answer.status_code == 200, answer.text
    return answer.content


def numbers(content: bytes) -> list[int]:
    events = [json.loads(line[6:]) for line in content.decode().split("\n") if line.startswith("data: ")]
    return [event["sequence_number"] for event in events]


async def test_a_stream_is_read_on_from_the_log_and_from_what_was_kept(house: House, client: redis.Redis) -> None:
    """The same bytes, by whoever reads them and whenever."""
    house.play = lambda _task: ScriptedStream()
    async with house.http() as http:
        body = {"model": "m", "input": "x", "background": True, "stream": True}
        begun = asyncio.create_task(http.post(PATH, json=body))

        async def is_there() -> bool:
            return bool(await house.rows())

        await eventually(is_there, "it is kept")
        ((response,),) = await house.rows()
        lane = house.lane()
        await lane.look()

        async def runs() -> bool:
            return bool(house.asked)

        await eventually(runs, "it runs")
        (request_id,) = house.asked
        await house.log(request_id, "Hel", "lo")
        elsewhere = asyncio.create_task(stream(http, response))
        house.streams[0].say("Hel").say("lo").say(end=END)
        whole = (await begun).content
        house.play = hello
        await ask(http, previous_response_id=response)  # at once: it was kept before its end was told
        assert numbers(whole) == list(range(len(numbers(whole))))
        assert await elsewhere == whole
        await client.delete(log_key(request_id))
        assert await stream(http, response) == whole
        rest = await stream(http, response, starting_after=4)
        assert (whole.endswith(rest), numbers(rest)[0]) == (True, 5)
        for wrong in ("x", "-2", "1.5"):
            answer = await http.get(f"{PATH}/{response}", params={"stream": "true", "starting_after": wrong})
            assert answer.status_code == 400
        assert (await http.get(f"{PATH}/{response}", params={"starting_after": 1})).status_code == 400


@pytest.mark.parametrize("error", [StreamLost(), Unavailable()])
async def test_a_stream_that_fails_in_the_middle_is_not_begun_anew(house: House, error: ServiceError) -> None:
    """Its readers have seen the half of it."""
    house.play = lambda _task: ScriptedStream().say("Hel").fail(error)
    async with house.http() as http, house.running():
        body = {"model": "m", "input": "x", "background": True, "stream": True}
        content = (await http.post(PATH, json=body)).content
        assert b"event: response.failed" in content
        ((response,),) = await house.rows()
        assert await stream(http, response) == content
        failed = (await http.get(f"{PATH}/{response}")).json()
        assert (failed["status"], failed["output"][0]["status"]) == ("failed", "incomplete")
    assert len(house.asked) == 1


async def test_what_has_no_stream_says_so(house: House) -> None:
    async with house.http() as http:
        now = (await ask(http, store=True))["id"]
        later = (await ask(http, background=True))["id"]
        for response in (now, later):
            answer = await http.get(f"{PATH}/{response}", params={"stream": "true"})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")


async def test_who_follows_a_cancelled_stream_is_told(house: House) -> None:
    async with house.http() as http:
        body = {"model": "m", "input": "x", "background": True, "stream": True}
        begun = asyncio.create_task(http.post(PATH, json=body))

        async def is_there() -> bool:
            return bool(await house.rows())

        await eventually(is_there, "it is kept")
        ((response,),) = await house.rows()
        await http.post(f"{PATH}/{response}/cancel")
        assert b'"status":"cancelled"' in (await begun).content
        answer = await http.get(f"{PATH}/{response}", params={"stream": "true"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")
