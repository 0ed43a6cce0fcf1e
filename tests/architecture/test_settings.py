"""Every setting is in deploy/.env.example, and nothing else is."""

import re
from importlib import import_module

import pytest
from pydantic_settings import BaseSettings

from deploy.env_example import FILE, SERVICES, render
from libs.common.settings import PostgresSettings, RabbitSettings, RedisSettings, TelemetrySettings

BLOCKS: list[type[BaseSettings]] = [
    PostgresSettings,
    RabbitSettings,
    RedisSettings,
    TelemetrySettings,
    *(import_module(f"services.{name}.settings").Settings for name in SERVICES),
]


def names_of(block: type[BaseSettings]) -> set[str]:
    return {f"{block.model_config['env_prefix']}{field}".upper() for field in block.model_fields}


def test_the_file_is_what_the_settings_say() -> None:
    assert FILE.read_text() == render(), "run `python -m deploy.env_example`"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.model_config["env_prefix"])
def test_no_setting_is_missing_or_made_up(block: type[BaseSettings]) -> None:
    sections = FILE.read_text().split("\n# ---- ")
    prefix = block.model_config["env_prefix"]
    documented = [set(re.findall(rf"^#({prefix}\w+)=", section, re.MULTILINE)) for section in sections]
    assert names_of(block) in documented


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.model_config["env_prefix"])
def test_every_setting_says_what_it_is(block: type[BaseSettings]) -> None:
    unexplained = [name for name, field in block.model_fields.items() if not field.description and name != "log_level"]
    assert unexplained == []
