from pathlib import Path

import pytest

from deploy.local.config import load_config
from deploy.local.errors import SetupError
from deploy.local.infrastructure import Infrastructure
from deploy.local.programs import Program
from deploy.local.services import service_programs

SERVERS = Infrastructure({"postgres": "postgresql://db:1/postgres", "rabbitmq": "amqp://q", "redis": "redis://r"})


def programs_of(run_dir: Path) -> dict[str, Program]:
    return {program.name: program for program in service_programs(load_config(run_dir), SERVERS)}


def test_settings_reach_the_service_whose_prefix_they_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PUBLIC_URL", "https://models.example")
    monkeypatch.setenv("POSTGRES_ADMIN_URL", "postgresql://all:powers@db/postgres")
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "1h")
    programs = programs_of(tmp_path).values()
    told = {program.name for program in programs if program.env.get("GATEWAY_PUBLIC_URL") == "https://models.example"}
    assert told == {"gateway"}
    assert all(program.env["OLLAMA_KEEP_ALIVE"] == "1h" for program in programs)
    assert not any("powers" in value for program in programs for value in program.env.values())


@pytest.mark.parametrize("service", ["auth", "gateway", "scheduler"])
def test_the_key_from_before_reaches_its_service_beside_the_new_one(tmp_path: Path, service: str) -> None:
    """As documented: both are lines of the file of secrets."""
    setting = f"{service.upper()}_SECRET_KEY"
    old = programs_of(tmp_path)[service].env[setting]
    secrets = tmp_path / "secrets.env"
    old_setting = f"{service.upper()}_OLD_SECRET_KEYS"
    secrets.write_text(f"{secrets.read_text().replace(old, 'new')}{old_setting}={old}\n")
    programs = programs_of(tmp_path)
    assert (programs[service].env[setting], programs[service].env[old_setting]) == ("new", old)
    assert [name for name, program in programs.items() if old_setting in program.env] == [service]


def test_a_drain_is_not_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_DRAIN_SECONDS", "100.5")
    programs = programs_of(tmp_path)
    assert (programs["worker-1"].stop_seconds, programs["gateway"].stop_seconds) == (116, 45)


@pytest.mark.parametrize("value", ["soon", "nan", "inf"])
def test_a_drain_that_is_no_number_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("AUTH_DRAIN_SECONDS", value)
    with pytest.raises(SetupError, match="AUTH_DRAIN_SECONDS must be"):
        programs_of(tmp_path)
