"""The engines there are, and which of them a worker offers."""

from collections.abc import Callable
from dataclasses import dataclass

from libs.common.contracts.inference import EngineName
from libs.common.contracts.worker import VirtualModel
from services.worker.engines.base import Engine, Upstream


@dataclass(frozen=True)
class EngineConfig:
    """What engines need of the worker's settings. ``echo``: offer the test engine."""

    threads: int = 1
    load_timeout_seconds: float = 300.0
    silence_seconds: float = 60.0
    echo: bool = False
    upstreams: tuple[Upstream, ...] = ()


def _llama_cpp(config: EngineConfig) -> Engine:
    from services.worker.engines.llama_cpp import LlamaCppEngine  # noqa: PLC0415  imported only when used

    return LlamaCppEngine(config.threads, config.load_timeout_seconds, config.silence_seconds)


def _openai_http(config: EngineConfig) -> Engine:
    from services.worker.engines.openai_http import OpenAIHttpEngine  # noqa: PLC0415  imported only when used

    return OpenAIHttpEngine(config.upstreams)


def _echo(config: EngineConfig) -> Engine:
    from services.worker.engines.echo import EchoEngine  # noqa: PLC0415  imported only when used

    return EchoEngine()


ENGINES: dict[EngineName, Callable[[EngineConfig], Engine]] = {
    "llama_cpp": _llama_cpp,
    "openai_http": _openai_http,
    "echo": _echo,
}


ECHO_CAPABILITIES = ("completion", "embedding", "tools", "insert")
ECHO_PATTERNS = {"echo": (), "echo-think*": ("thinking",), "echo-vision*": ("vision",), "echo-*": ()}


class Engines:
    """The engines this worker offers, each made when first used."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._made: dict[EngineName, Engine] = {}

    def __getitem__(self, name: EngineName) -> Engine:
        """Raises ``KeyError`` for an engine that is not offered."""
        if name not in self.names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = ENGINES[name](self._config)
        return self._made[name]

    @property
    def names(self) -> tuple[EngineName, ...]:
        offered: dict[EngineName, bool] = {"openai_http": bool(self._config.upstreams), "echo": self._config.echo}
        return tuple(name for name in ENGINES if offered.get(name, True))

    @property
    def virtual_models(self) -> tuple[VirtualModel, ...]:
        """Names that are served without weights of ours. The first pattern that fits a name counts."""
        upstreams = [
            VirtualModel(pattern=upstream.pattern, engine="openai_http", capabilities=upstream.capabilities)
            for upstream in self._config.upstreams
        ]
        echo = [
            VirtualModel(pattern=pattern, engine="echo", capabilities=(*ECHO_CAPABILITIES, *more))
            for pattern, more in ECHO_PATTERNS.items()
        ]
        return (*upstreams, *(echo if self._config.echo else ()))
