"""For callers who may know of some models only: the others, their tags and their blobs are not there.

Other organizations' are the registry's to hide.
"""

import re
from typing import Final
from urllib.parse import parse_qs, urlencode

from starlette.responses import JSONResponse, Response

from libs.common.contracts.registry import ListModels, NamesOfDigest
from libs.common.errors import Forbidden, InvalidRequest, ModelNotFound, NotFound
from services.gateway.api.door import Call
from services.gateway.api.v2.relay import relay, safe_path
from services.gateway.api.v2.words import VERSION
from services.gateway.models import display_name
from services.gateway.permissions import may_see

MOST_TAGS: Final = 1000
_DIGEST: Final = re.compile(r"sha256[:-][0-9a-f]{64}", re.IGNORECASE)
"""All that the registry takes for one: what looked like a tag here would escape the check of digests."""


async def manifest(call: Call) -> Response:
    """By tag, or by digest."""
    name, reference = call.scope["path_params"]["name"], call.scope["path_params"]["reference"]
    if call.caller.models:
        if not _DIGEST.fullmatch(reference):
            if not may_see(call.caller, display_name(f"{name}:{reference}")):
                raise ModelNotFound(f"model '{name}:{reference}' not found")
        elif _repository(f"{name}:x") not in map(_repository, await names_seen(call, reference)):
            raise NotFound("manifest unknown")
    return await relay(call)


async def put_manifest(call: Call) -> Response:
    name, tag = call.scope["path_params"]["name"], call.scope["path_params"]["reference"]
    if not may_see(call.caller, display_name(f"{name}:{tag}")):
        raise Forbidden(f"forbidden: models named '{name}:{tag}' are not among those allowed here")
    return await relay(call)


async def blob(call: Call) -> Response:
    digest = call.scope["path_params"]["digest"]
    if call.caller.models and not await names_seen(call, digest):
        raise NotFound(f"blob {digest.lower().replace('sha256-', 'sha256:', 1)} not found")
    return await relay(call)


async def begin_upload(call: Call) -> Response:
    """Whoever may not know of every blob mounts none: it is sent again."""
    if not call.caller.models:
        return await relay(call)
    digests = parse_qs(call.scope["query_string"].decode("latin-1")).get("digest", [])[:1]
    return await relay(call, urlencode([("digest", digest) for digest in digests]))


async def tags(call: Call) -> Response:
    if not call.caller.models:
        return await relay(call)
    safe_path(call)
    repository = str(call.scope["path_params"]["name"])
    count, last = _paging(call)
    models = await call.ctx.bus.ask(ListModels())
    seen = {model.name for model in models if may_see(call.caller, model.name)}
    found = sorted({name.rpartition(":")[2] for name in seen if _repository(name) == _repository(f"{repository}:x")})
    rest = [tag for tag in found if tag > last]
    if not rest and not last:
        raise NotFound("repository name not known to registry")
    more = f'</v2/{repository}/tags/list?n={count}&last={rest[count - 1]}>; rel="next"' if len(rest) >= count else None
    headers = {**VERSION, **({} if more is None else {"Link": more})}
    return JSONResponse({"name": repository, "tags": rest[:count]}, headers=headers)


async def names_seen(call: Call, digest: str) -> list[str]:
    """Of the models that have this blob, or are this manifest. Raises ``InvalidRequest`` for what is no digest."""
    names = await call.ctx.bus.ask(NamesOfDigest(digest=digest))
    return [name for name in names if may_see(call.caller, name)]


def _repository(name: str) -> str:
    """Without its tag, in any spelling."""
    return display_name(name).rpartition(":")[0].lower()


def _paging(call: Call) -> tuple[int, str]:
    query = parse_qs(call.scope["query_string"].decode("latin-1"))
    count, last = query.get("n", [str(MOST_TAGS)])[-1], query.get("last", [""])[-1]
    if not count.isdecimal() or not 1 <= int(count[:5]) <= MOST_TAGS:
        raise InvalidRequest
    return int(count), last
