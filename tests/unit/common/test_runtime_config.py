import asyncio
import base64
from importlib import import_module
from typing import Any

import pytest
from pydantic import SecretStr, TypeAdapter

from deploy.env_example import SERVICES
from libs.common.bus.base import Handlers
from libs.common.bus.memory import MemoryBroker, MemoryBus
from libs.common.contracts.gateway import ConfigChanged, ConfigVersion, GetConfig, SystemConfig
from libs.common.runtime_config import RuntimeConfig, handlers_of, learn, stay_true
from services.gateway.settings import Settings
from services.scheduler.settings import Settings as SchedulerSettings
from tests.fixtures.suite import eventually


def a_config() -> RuntimeConfig[Settings]:
    return RuntimeConfig(
        Settings(blob_token=SecretStr("x" * 16), secret_key=SecretStr("A" * 43 + "="), request_deadline_seconds=100)
    )


def a_scheduler() -> SchedulerSettings:
    return SchedulerSettings(secret_key=SecretStr(base64.b64encode(bytes(32)).decode()))


def version(number: int, **values: Any) -> ConfigVersion:
    return ConfigVersion(version=number, config=SystemConfig(**values))


def test_what_was_changed_wins_and_null_is_the_environment_again() -> None:
    config = a_config()
    config.hear(version(1, request_deadline_seconds=5, max_waiting=1))
    assert config.current.request_deadline_seconds == 5
    config.hear(version(2, anonymous=True))
    assert (config.current.request_deadline_seconds, config.current.admits_anonymous) == (100, True)


def test_old_news_change_nothing() -> None:
    config = a_config()
    for number, seconds in ((3, 30.0), (2, 20.0), (3, 31.0)):
        config.hear(version(number, request_deadline_seconds=seconds))
    assert config.current.request_deadline_seconds == 30


@pytest.mark.parametrize("name", SystemConfig.model_fields)
def test_each_is_a_setting_of_some_service_that_takes_what_is_allowed_here(name: str) -> None:
    services = [import_module(f"services.{service}.settings").Settings for service in SERVICES]
    of_services = [settings.model_fields[name] for settings in services if name in settings.model_fields]
    assert of_services
    allowed = {"log_level": "DEBUG", "registration": "open", "origins": ("http://a",), "anonymous": True}
    for field in of_services:
        adapter: TypeAdapter[Any] = TypeAdapter(field.annotation)
        assert adapter.validate_python(allowed.get(name, 7)) == allowed.get(name, 7)


async def test_every_process_hears_of_a_change() -> None:
    broker = MemoryBroker()
    gateway, scheduler = a_config(), RuntimeConfig(a_scheduler())
    async with MemoryBus.open(broker, "gateway", "g") as first, MemoryBus.open(broker, "scheduler", "s") as second:
        await first.subscribe(handlers_of("gateway"), gateway)
        await second.subscribe(handlers_of("scheduler"), scheduler)
        await first.publish(ConfigChanged(now=version(2, max_waiting=7, request_deadline_seconds=9)))

        async def heard() -> bool:
            return (gateway.current.request_deadline_seconds, scheduler.current.max_waiting) == (9, 7)

        await eventually(heard, "both have heard")


async def test_who_starts_after_a_gateway_knows_at_once_and_who_knows_does_not_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker, asked = MemoryBroker(), []
    answering = Handlers("gateway")

    @answering.on(GetConfig)
    async def get_config(query: GetConfig, _ctx: object) -> ConfigVersion:
        asked.append(query)
        return version(5, max_waiting=7)

    config = RuntimeConfig(a_scheduler())
    async with MemoryBus.open(broker, "scheduler", "s") as bus, MemoryBus.open(broker, "gateway", "g") as gateway:
        await learn(config, bus)
        assert not config.heard, "nobody was there, and it starts"
        monkeypatch.setattr("libs.common.runtime_config.FIRST_ANSWER_SECONDS", 30)
        await gateway.subscribe(answering, None)
        for _ in range(2):
            await learn(config, bus)
            assert config.current.max_waiting == 7
        assert len(asked) == 1


async def test_who_starts_before_a_gateway_asks_until_one_answers() -> None:
    broker, config = MemoryBroker(), RuntimeConfig(a_scheduler())
    answering = Handlers("gateway")

    @answering.on(GetConfig)
    async def get_config(_query: GetConfig, _ctx: object) -> ConfigVersion:
        return version(5, max_waiting=7)

    async def knows() -> bool:
        return config.current.max_waiting == 7

    async with MemoryBus.open(broker, "scheduler", "s") as bus, MemoryBus.open(broker, "gateway", "g") as gateway:
        asking = asyncio.create_task(stay_true(config, bus))
        await asyncio.sleep(0)
        assert not await knows()
        await gateway.subscribe(answering, None)
        await eventually(knows, "it knows")
        asking.cancel()
        await asyncio.wait([asking])
