from pathlib import Path

import pytest

from deploy.local.config import load_config
from deploy.local.infrastructure import Infrastructure
from deploy.local.services import service_programs


def test_settings_reach_the_service_whose_prefix_they_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PUBLIC_URL", "https://models.example")
    monkeypatch.setenv("POSTGRES_ADMIN_URL", "postgresql://all:powers@db/postgres")
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "1h")
    urls = {"postgres": "postgresql://db:1/postgres", "rabbitmq": "amqp://q", "redis": "redis://r"}
    programs = service_programs(load_config(tmp_path), Infrastructure(urls))
    told = {program.name for program in programs if program.env.get("GATEWAY_PUBLIC_URL") == "https://models.example"}
    assert told == {"gateway"}
    assert all(program.env["OLLAMA_KEEP_ALIVE"] == "1h" for program in programs)
    assert not any("powers" in value for program in programs for value in program.env.values())
