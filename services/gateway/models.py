"""What a model name means: answered from memory, by asking the registry the first time."""

import json

from libs.common.bus.base import Bus
from libs.common.contracts.auth.identity import Identity
from libs.common.contracts.inference import ModelRef
from libs.common.contracts.registry import ResolveModel
from libs.common.errors import Forbidden, InvalidModelName, InvalidRequest, ModelNotFound
from libs.common.tasks import Tasks
from services.gateway.answer_cache import AnswerCache
from services.gateway.permissions import may_see

LONGEST_NAME = 640
"""No valid name is longer; what is, does not get to the registry or into the cache."""

REMOTE_INFERENCE = "remote model is unavailable"
REMOTE_DETAILS = "remote model details are unavailable"

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"


def display_name(name: str) -> str:
    """The name as Ollama shows it: without default host and namespace, always with its tag. Does not check it."""
    *places, model = name.split("/")
    if len(places) == 2 and places[0].lower() == DEFAULT_HOST:
        del places[0]
    if len(places) == 1 and places[0].lower() == DEFAULT_NAMESPACE:
        del places[0]
    return "/".join([*places, model if ":" in model else f"{model}:latest"])


def local_name(name: str, unavailable: str = REMOTE_INFERENCE) -> str:
    """The name without its source, as every route must read it: ``m:7b:local`` is ``m:7b``.

    Raises ``Forbidden`` for a model of Ollama's cloud (``:cloud``, ``-cloud``), which there is none of here;
    ``unavailable`` says what for. ``InvalidRequest`` if it names both sources.
    """
    base, source = _split_source(name.strip())
    if source and _split_source(base)[1]:
        quoted = json.dumps(name.strip(), ensure_ascii=False)
        raise InvalidRequest(f"use either :local or :cloud, not both: {quoted}")
    if source == "cloud":
        raise Forbidden(f"ollama cloud is disabled: {unavailable}")
    return base.strip()


def seen_name(caller: Identity, name: str, unavailable: str = REMOTE_INFERENCE) -> str:
    """As ``local_name``: every name that comes from a caller passes here, or through ``own_name``.

    Raises ``ModelNotFound`` for a model the caller may not know of, whether there is one or not. Other organizations'
    are the registry's to hide.
    """
    local = local_name(name, unavailable)
    if not may_see(caller, _plain(local)):
        raise ModelNotFound(f"model '{local}' not found")
    return local


def own_name(caller: Identity, name: str) -> str:
    """As ``local_name``, for a model to be made. Raises ``Forbidden`` if the caller could not see it then."""
    local = local_name(name)
    if local and not may_see(caller, _plain(local)):
        raise Forbidden(f"forbidden: models named '{local}' are not among those allowed here")
    return local


def _plain(name: str) -> str:
    """As ``display_name``, also of names that say how their host is reached (``http://``)."""
    return display_name(name.rpartition("://")[2])


def _split_source(name: str) -> tuple[str, str]:
    """(the rest, "local" or "cloud" or nothing)"""
    rest, colon, tag = name.rpartition(":")
    source = tag.strip().lower()
    if colon and source in ("local", "cloud"):
        return rest, source
    if colon and "/" not in source and source.endswith("-cloud"):
        return f"{rest}:{tag.strip()[: -len('-cloud')]}", "cloud"
    return name, ""


class Models:
    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self._bus = bus
        self._answers: AnswerCache[ModelRef] = AnswerCache(tasks, size=2000, era=lambda: bus.connections)

    async def resolve(self, caller: Identity, name: str) -> ModelRef:
        """For the caller, on whose behalf this task works.

        What ``seen_name`` raises; ``InvalidModelName``; ``Unavailable`` if the registry is away and the name new.
        """
        if len(name) > LONGEST_NAME or not name.isascii():
            raise InvalidModelName
        name = seen_name(caller, name)
        key = _key(caller.organization_id, name)
        return await self._answers.get(key, lambda: self._bus.ask(ResolveModel(name=name)))

    def forget(self, name: str, organization_id: str = "") -> None:
        """What the name means there; without an organization, what it means to anybody."""
        if organization_id:
            self._answers.forget(_key(organization_id, name))
        else:
            self._answers.forget_keys(lambda key: key.endswith(_key("", name)))


def _key(organization_id: str, name: str) -> str:
    """One for all spellings of a name, in one organization.

    Nothing else may share it: a bad name that did would refuse a good one to everybody.
    """
    return f"{organization_id} {_plain(name).lower()}"
