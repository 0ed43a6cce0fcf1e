"""A service's settings as they are in force now: its environment's, and what was changed since on top.

The gateway keeps the changes; every process hears of one by event, and asks from time to time in case it missed one.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final, Generic, TypeVar

import structlog

from libs.common.bus.base import Bus, Handlers
from libs.common.contracts.gateway import ConfigChanged, ConfigVersion, GetConfig
from libs.common.errors import ServiceError
from libs.common.settings import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)

ASK_AGAIN_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 1.0
FIRST_ANSWER_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class RuntimeConfig(Generic[S]):
    """``current`` is replaced as a whole: read what you need from it when you need it, and keep none of it."""

    def __init__(self, settings: S) -> None:
        self._of_the_environment = settings
        self._version = 0
        self.current = settings

    @property
    def heard(self) -> bool:
        """Whether anybody has said yet what was changed."""
        return self._version > 0

    def hear(self, now: ConfigVersion) -> None:
        """News may come twice and in any order."""
        if now.version <= self._version:
            return
        known = type(self._of_the_environment).model_fields
        changed = {name: value for name, value in now.config if value is not None and name in known}
        self._version = now.version
        self.current = self._of_the_environment.model_copy(update=changed)
        logging.getLogger().setLevel(self.current.log_level.upper())
        log.info("settings in force", version=now.version, changed=sorted(changed))


def handlers_of(service: str) -> Handlers:
    """What every process of every service listens to; the context is its ``RuntimeConfig``."""
    handlers = Handlers(service)

    @handlers.on(ConfigChanged, every_replica=True)
    async def config_changed(event: ConfigChanged, config: RuntimeConfig[ServiceSettings]) -> None:
        config.hear(event.now)

    return handlers


async def learn(config: RuntimeConfig[S], bus: Bus) -> None:
    """Before a process takes its first message: it must not let in meanwhile whom a change keeps out.

    Without a gateway that answers at once it starts all the same.
    """
    if not config.heard:
        with suppress(ServiceError):
            config.hear(await bus.ask(GetConfig(), timeout=FIRST_ANSWER_SECONDS))


async def stay_true(config: RuntimeConfig[S], bus: Bus) -> None:
    """Background loop of every service. Until a gateway answers, the environment's settings are in force."""
    while True:
        try:
            config.hear(await bus.ask(GetConfig()))
        except ServiceError:
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            await asyncio.sleep(ASK_AGAIN_SECONDS)
