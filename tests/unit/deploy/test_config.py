from pathlib import Path

import pytest

from deploy.local import commands, config, infrastructure
from deploy.local.config import Config, load_config, with_ollama_names
from deploy.local.errors import SetupError
from deploy.local.services import admits_anonymous, gateway_host


def a_config(tmp_path: Path, **env: str) -> Config:
    return Config(tmp_path, env, {}, workers=1)


def test_a_port_has_a_default_and_can_be_set(tmp_path: Path) -> None:
    assert a_config(tmp_path).port("POSTGRES_PORT") == 15432
    assert a_config(tmp_path, POSTGRES_PORT="").port("POSTGRES_PORT") == 15432
    assert a_config(tmp_path, POSTGRES_PORT="20000").port("POSTGRES_PORT") == 20000


@pytest.mark.parametrize("value", ["0", "65536", "-1", "tcp://10.0.0.1:6379"])
def test_a_wrong_port_is_named(tmp_path: Path, value: str) -> None:
    with pytest.raises(SetupError, match="REDIS_PORT must be a port"):
        a_config(tmp_path, REDIS_PORT=value).port("REDIS_PORT")


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    first, second = load_config(tmp_path), load_config(tmp_path)
    assert first.secrets == second.secrets
    assert (tmp_path / "secrets.env").stat().st_mode & 0o777 == 0o600
    assert len(set(first.secrets.values())) == len(first.secrets)


def test_a_secret_of_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_ADMIN_PASSWORD", "chosen by the caller")
    assert load_config(tmp_path).secrets["AUTH_ADMIN_PASSWORD"] == "chosen by the caller"


def test_the_number_of_workers_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "3")
    assert load_config(tmp_path).workers == 3
    monkeypatch.delenv("WORKERS")
    assert load_config(tmp_path).workers == 3


def test_what_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    """On a full disk nothing could be."""
    load_config(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    load_config(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_only_a_start_needs_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "FREE_BYTES_NEEDED", 1 << 60)
    load_config(tmp_path)
    with pytest.raises(SetupError, match="make room"):
        commands.up()


def test_an_empty_variable_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("WORKERS=3\nGATEWAY_PORT=20000\n")
    monkeypatch.setenv("WORKERS", "")
    monkeypatch.setenv("GATEWAY_PORT", "")
    loaded = load_config(tmp_path / ".run", tmp_path / ".env")
    assert (loaded.workers, loaded.port("GATEWAY_PORT")) == (3, 20000)


def test_rabbitmq_is_where_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("bin/erl", "bin/epmd", "elsewhere/sbin/rabbitmq-server", "elsewhere/sbin/rabbitmq-env"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("RABBITMQ_HOME", raising=False)
    given = f"POSTGRES_ADMIN_URL=p\nREDIS_URL=r\nRABBITMQ_HOME={tmp_path / 'elsewhere'}\n"
    (tmp_path / ".env").write_text(given)
    loaded = load_config(tmp_path / ".run", tmp_path / ".env")
    (loaded.run_dir / "infrastructure").write_text("embedded")
    [server] = infrastructure.choose(loaded).servers
    assert server.programs[-1].argv[0] == str(tmp_path / "elsewhere" / "sbin" / "rabbitmq-server")


@pytest.mark.parametrize("value", ["0", "65", "many"])
def test_a_wrong_number_of_workers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WORKERS", value)
    with pytest.raises(SetupError, match="WORKERS must be"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({}, {}),
        ({"OLLAMA_HOST": "0.0.0.0:11500"}, {"GATEWAY_HOST": "0.0.0.0", "GATEWAY_PORT": "11500"}),
        ({"OLLAMA_HOST": " '0.0.0.0' ", "GATEWAY_PORT": "1"}, {"GATEWAY_HOST": "0.0.0.0", "GATEWAY_PORT": "1"}),
        ({"OLLAMA_HOST": "a:2", "GATEWAY_HOST": ""}, {"GATEWAY_HOST": "a", "GATEWAY_PORT": "2"}),
        ({"OLLAMA_MODELS": "/m"}, {"REGISTRY_DATA_DIR": "/m"}),
        ({"OLLAMA_MODELS": "/m", "REGISTRY_DATA_DIR": "/ours"}, {"REGISTRY_DATA_DIR": "/ours"}),
    ],
)
def test_ollamas_names_stand_in_for_ours(env: dict[str, str], named: dict[str, str]) -> None:
    assert {name: value for name, value in with_ollama_names(env).items() if not name.startswith("OLLAMA_")} == named


def test_ollama_host_reaches_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_HOST", raising=False)
    monkeypatch.delenv("GATEWAY_PORT", raising=False)
    monkeypatch.setenv("OLLAMA_HOST", "0.0.0.0:11500")
    loaded = load_config(tmp_path)
    assert (gateway_host(loaded), loaded.port("GATEWAY_PORT")) == ("0.0.0.0", 11500)
    assert not admits_anonymous(loaded)
