"""A model that a caller may not know of is answered for, byte for byte, as one that is nowhere; on every route.

With a real registry behind the gateway: another organization's model, and one that a key may not see.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from libs.common import actor
from libs.common.bus.base import Bus, Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.auth.identity import Identity, VerifyKey
from services.gateway.handlers import handlers as gateway_handlers
from services.gateway.identity import Identities
from services.gateway.models import Models
from services.gateway.operations import Operations
from services.registry import blobs, catalog, imports
from services.registry.context import Context
from tests.fixtures.builders import an_identity
from tests.fixtures.gateway import a_gateway
from tests.integration.registry.conftest import BLOB_TOKEN

PLACE = "localhost:1/x"
SECRET, NOWHERE, MINE = (f"{PLACE}/{name}" for name in ("secrets", "nowhere", "mine"))
OF_ACME = actor.Actor(organization_id="acme", user_id="u")
CALLERS = {
    "omx_owner": an_identity("operator", organization_id="acme"),
    "omx_stranger": an_identity("operator", organization_id="globex"),
    "omx_few": an_identity("operator", organization_id="acme", models=(("*/mine*",),)),
    "omx_tags": an_identity("operator", organization_id="acme", models=(("*:s*",),)),
}
UNSEEING = ["omx_stranger", "omx_few"]
ROUTES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/api/chat", {"model": "NAME", "messages": [{"role": "user", "content": "x"}]}),
    ("POST", "/api/chat", {"model": "NAME", "keep_alive": 0}),
    ("POST", "/api/generate", {"model": "NAME", "prompt": "x"}),
    ("POST", "/api/generate", {"model": "NAME", "keep_alive": 0}),
    ("POST", "/api/embed", {"model": "NAME", "input": "x"}),
    ("POST", "/api/embeddings", {"model": "NAME", "prompt": "x"}),
    ("POST", "/v1/chat/completions", {"model": "NAME", "messages": [{"role": "user", "content": "x"}]}),
    ("POST", "/v1/completions", {"model": "NAME", "prompt": "x"}),
    ("POST", "/v1/embeddings", {"model": "NAME", "input": "x"}),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/NAME", None),
    ("POST", "/api/show", {"model": "NAME"}),
    ("POST", "/api/show", {"model": "NAME", "verbose": True}),
    ("POST", "/api/copy", {"source": "NAME", "destination": MINE}),
    ("DELETE", "/api/delete", {"model": "NAME"}),
    ("POST", "/api/pull", {"model": "NAME"}),
    ("POST", "/api/push", {"model": "NAME", "insecure": True}),
    ("POST", "/api/push", {"model": "NAME", "stream": False}),
    ("POST", "/api/create", {"model": MINE, "from": "NAME"}),
    ("GET", "/api/tags", None),
    ("GET", "/api/ps", None),
    ("GET", "/v2/NAME/manifests/latest", None),
    ("HEAD", "/v2/NAME/manifests/latest", None),
    ("GET", "/v2/NAME/manifests/DIGEST", None),
    ("GET", "/v2/NAME/tags/list", None),
    ("GET", "/v2/NAME/blobs/DIGEST", None),
    ("HEAD", "/v2/NAME/blobs/DIGEST", None),
    ("HEAD", "/api/blobs/DIGEST", None),
    ("GET", "/api/v1/models", None),
    ("GET", "/api/v1/models/NAME", None),
    ("PUT", "/api/v1/models/NAME", {}),
    ("DELETE", "/api/v1/models/NAME", None),
    ("GET", "/api/v1/models/NAME/versions", None),
    ("GET", "/api/v1/models/NAME/replicas", None),
    ("POST", "/api/v1/models/NAME/replicate", {"nodes": 1}),
    ("GET", "/api/v1/models/HEX/replicas", None),
]


@pytest.fixture
async def bus(broker: MemoryBroker, ctx: Context, tiny_gguf: Path) -> AsyncIterator[Bus]:
    """The gateway's; auth knows the callers, and acme has a model."""
    auth = Handlers("auth")
    by_digest = {hashlib.sha256(key.encode()).hexdigest(): identity for key, identity in CALLERS.items()}

    @auth.on(VerifyKey)
    async def verify(query: VerifyKey, _ctx: object) -> Identity:
        return by_digest[query.digest]

    with actor.acting(OF_ACME):
        await imports.import_gguf(ctx, SECRET, tiny_gguf)
    async with MemoryBus.open(broker, "auth", "a1") as auths, MemoryBus.open(broker, "gateway", "g1") as bus:
        await auths.subscribe(auth, None)
        yield bus


@pytest.fixture
async def client(bus: Bus, http: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    settings = {"registry_url": str(http.base_url), "blob_token": BLOB_TOKEN, "anonymous": False}
    async with a_gateway(**settings) as gateway:
        tasks = gateway.ctx.tasks
        neighbours = {
            "identities": Identities(bus, tasks),
            "models": Models(bus, tasks),
            "operations": Operations(bus, tasks, 20, most_per_caller=20),
        }
        gateway.ctx = replace(gateway.ctx, bus=bus, **neighbours)  # type: ignore[arg-type]
        await bus.subscribe(gateway_handlers, gateway.ctx)
        async with gateway.client() as client:
            yield client


async def answer(
    client: httpx.AsyncClient, key: str, method: str, path: str, body: Any
) -> tuple[int, bytes, dict[str, str]]:
    headers = {"Authorization": f"Bearer {key}"}
    response = await client.request(method, path, json=body, headers=headers)
    changing = {"x-request-id", "date", "openai-processing-ms"}
    told = {name: value for name, value in response.headers.items() if name not in changing}
    content = response.content.replace(response.headers["x-request-id"].encode(), b"")
    return response.status_code, content, told


def named(template: Any, name: str, digest: str) -> Any:
    if isinstance(template, dict):
        return {key: named(value, name, digest) for key, value in template.items()}
    if not isinstance(template, str):
        return template
    return template.replace("NAME", name).replace("DIGEST", digest).replace("HEX", digest[7:])


@pytest.mark.parametrize("key", UNSEEING)
async def test_it_is_as_if_it_were_nowhere(client: httpx.AsyncClient, ctx: Context, key: str) -> None:
    with actor.acting(OF_ACME):
        manifest = await catalog.find_manifest(ctx, SECRET)
    told_apart = []
    for method, path, body in ROUTES:
        of_manifest = "manifests" in path or "HEX" in path
        digest = f"sha256:{manifest.digest}" if of_manifest else manifest.layers[1].blob.digest
        seen = []
        for name, named_digest in ((SECRET, digest), (NOWHERE, blobs.digest_of(b"nothing"))):
            asked = named(body, name, named_digest)
            text = str(await answer(client, key, method, named(path, name, named_digest), asked))
            seen.append(text.replace(name, "NAME").replace(named_digest[7:], "HEX"))
        if seen[0] != seen[1] or "secrets" in seen[0]:
            told_apart.append((method, path, seen))
    assert told_apart == []


@pytest.mark.parametrize("prefix", ["sha256:", "sha256-", "SHA256:", "Sha256-"])
async def test_a_digest_is_not_taken_for_a_tag(client: httpx.AsyncClient, ctx: Context, prefix: str) -> None:
    with actor.acting(OF_ACME):
        digest = (await catalog.find_manifest(ctx, SECRET)).digest
    path = f"/v2/{SECRET}/manifests/{prefix}{digest}"
    assert (await answer(client, "omx_owner", "GET", path, None))[0] == 200
    assert (await answer(client, "omx_tags", "GET", path, None))[0] == 404


async def test_a_repository_that_is_spelled_in_no_way_we_know(client: httpx.AsyncClient, ctx: Context) -> None:
    with actor.acting(OF_ACME):
        await catalog.copy(ctx, SECRET, f"{PLACE}/kimi:s")
    path = f"/v2/{PLACE}/\u212aimi/tags/list?n=1"
    for key in ("omx_owner", "omx_tags"):
        assert (await answer(client, key, "GET", path, None))[0] == 400


@pytest.mark.parametrize("path", ["/api/tags", "/v2/NAME/manifests/latest", "/v2/NAME/tags/list"])
async def test_its_own_organization_sees_it(client: httpx.AsyncClient, path: str) -> None:
    status, content, _ = await answer(client, "omx_owner", "GET", path.replace("NAME", SECRET), None)
    assert status == 200
    assert SECRET.encode() in content or b"layers" in content


async def test_names_that_a_key_could_not_see_are_not_made(client: httpx.AsyncClient) -> None:
    for method, path, body in (
        ("POST", "/api/create", {"model": "NAME", "from": MINE}),
        ("POST", "/api/copy", {"source": MINE, "destination": "NAME"}),
        ("POST", "/api/v1/models", {"name": "NAME"}),
        ("PUT", "/v2/NAME/manifests/latest", {}),
    ):
        answers = []
        for name in (SECRET, NOWHERE):
            status, content, _ = await answer(client, "omx_few", method, named(path, name, ""), named(body, name, ""))
            answers.append((status, content.replace(name.encode(), b"NAME")))
        assert answers[0] == answers[1]
        assert answers[0][0] == 403
