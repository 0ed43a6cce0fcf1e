"""What a model name means: answered from memory, by asking the registry the first time."""

from libs.common.bus.base import Bus
from libs.common.contracts.inference import ModelRef
from libs.common.contracts.registry import ResolveModel
from libs.common.errors import InvalidModelName
from libs.common.tasks import Tasks
from services.gateway.answer_cache import AnswerCache

LONGEST_NAME = 640
"""No valid name is longer; what is, does not get to the registry or into the cache."""

_DEFAULT_PREFIXES = ("registry.ollama.ai/", "library/")


def display_name(name: str) -> str:
    """The name as Ollama shows it: without default host and namespace, always with its tag. Does not check it."""
    name = name.strip()
    for prefix in _DEFAULT_PREFIXES:
        if name[: len(prefix)].lower() == prefix:
            name = name[len(prefix) :]
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


class Models:
    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self._bus = bus
        self._answers: AnswerCache[ModelRef] = AnswerCache(tasks, size=2000)

    async def resolve(self, name: str) -> ModelRef:
        """Raises ``ModelNotFound``, ``InvalidModelName``; ``Unavailable`` if the registry is away and the name new."""
        if len(name) > LONGEST_NAME:
            raise InvalidModelName
        return await self._answers.get(_key(name), lambda: self._bus.ask(ResolveModel(name=name)))

    def forget(self, name: str) -> None:
        self._answers.forget(_key(name))


def _key(name: str) -> str:
    return display_name(name).lower()
