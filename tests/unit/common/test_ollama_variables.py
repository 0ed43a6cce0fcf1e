from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from libs.common.ollama_variables import NEVER_SECONDS, flag, host, port
from services.gateway.settings import Settings as Gateway
from services.registry.settings import Settings as Registry
from services.scheduler.settings import Settings as Scheduler
from services.worker.settings import Settings as Worker

REQUIRED: dict[type[BaseSettings], dict[str, str]] = {
    Gateway: {"GATEWAY_BLOB_TOKEN": "x" * 16, "GATEWAY_SECRET_KEY": "A" * 43 + "="},
    Registry: {"REGISTRY_BLOB_TOKEN": "x" * 16, "REGISTRY_DATA_DIR": ""},
    Scheduler: {"SCHEDULER_SECRET_KEY": "A" * 43 + "="},
}


def setting(monkeypatch: pytest.MonkeyPatch, block: type[BaseSettings], name: str, **environment: str) -> Any:
    for variable, value in {**REQUIRED.get(block, {}), **environment}.items():
        monkeypatch.setenv(variable, value)
    return getattr(block(), name)


@pytest.mark.parametrize(
    ("block", "name", "variable", "text", "value"),
    [
        (Worker, "keep_alive_seconds", "OLLAMA_KEEP_ALIVE", "10m", 600),
        (Worker, "keep_alive_seconds", "OLLAMA_KEEP_ALIVE", "90", 90),
        (Worker, "keep_alive_seconds", "OLLAMA_KEEP_ALIVE", "-1", -1),
        (Worker, "keep_alive_seconds", "OLLAMA_KEEP_ALIVE", "0", 0),
        (Worker, "keep_alive_seconds", "OLLAMA_KEEP_ALIVE", " '1h30m' ", 5400),
        (Worker, "keep_alive_seconds", "OLLAMA_KEEP_ALIVE", "a while", 300),
        (Worker, "keep_alive_seconds", "OLLAMA_KEEP_ALIVE", "1.5", 300),
        (Worker, "keep_alive_seconds", "OLLAMA_KEEP_ALIVE", "9" * 400, 300),
        (Worker, "keep_alive_seconds", "OLLAMA_KEEP_ALIVE", "", 300),
        (Worker, "slots_per_model", "OLLAMA_NUM_PARALLEL", '"8"', 8),
        (Worker, "slots_per_model", "OLLAMA_NUM_PARALLEL", "0", 4),
        (Worker, "slots_per_model", "OLLAMA_NUM_PARALLEL", "many", 4),
        (Worker, "max_loaded_models", "OLLAMA_MAX_LOADED_MODELS", "1", 1),
        (Worker, "max_loaded_models", "OLLAMA_MAX_LOADED_MODELS", "0", 3),
        (Worker, "context_length", "OLLAMA_CONTEXT_LENGTH", "8192", 8192),
        (Worker, "context_length", "OLLAMA_CONTEXT_LENGTH", "0", 4096),
        (Worker, "load_timeout_seconds", "OLLAMA_LOAD_TIMEOUT", "2m", 120),
        (Worker, "load_timeout_seconds", "OLLAMA_LOAD_TIMEOUT", "0", NEVER_SECONDS),
        (Worker, "load_timeout_seconds", "OLLAMA_LOAD_TIMEOUT", "-1s", NEVER_SECONDS),
        (Scheduler, "max_waiting", "OLLAMA_MAX_QUEUE", "7", 7),
        (Scheduler, "max_waiting", "OLLAMA_MAX_QUEUE", "-7", 512),
        (Gateway, "origins", "OLLAMA_ORIGINS", "http://a, https://*.b", ("http://a", "https://*.b")),
        (Gateway, "host", "OLLAMA_HOST", "0.0.0.0:11500", "0.0.0.0"),
        (Gateway, "port", "OLLAMA_HOST", "0.0.0.0:11500", 11500),
        (Registry, "data_dir", "OLLAMA_MODELS", "/srv/models", Path("/srv/models")),
    ],
)  # fmt: skip
def test_ollamas_variables_are_ours_too(  # noqa: PLR0917  a table
    monkeypatch: pytest.MonkeyPatch, block: type[BaseSettings], name: str, variable: str, text: str, value: object
) -> None:
    assert setting(monkeypatch, block, name, **{variable: text}) == value


@pytest.mark.parametrize(
    ("block", "name", "environment", "value"),
    [
        (Worker, "keep_alive_seconds", {"WORKER_KEEP_ALIVE_SECONDS": "5", "OLLAMA_KEEP_ALIVE": "9"}, 5),
        (Worker, "keep_alive_seconds", {"WORKER_KEEP_ALIVE_SECONDS": "", "OLLAMA_KEEP_ALIVE": "9"}, 9),
        (Gateway, "host", {"GATEWAY_HOST": "127.0.0.2", "OLLAMA_HOST": "0.0.0.0:1"}, "127.0.0.2"),
        (Gateway, "port", {"GATEWAY_HOST": "127.0.0.2", "OLLAMA_HOST": "0.0.0.0:1"}, 1),
    ],
)
def test_our_own_variable_wins(
    monkeypatch: pytest.MonkeyPatch, block: type[BaseSettings], name: str, environment: dict[str, str], value: object
) -> None:
    assert setting(monkeypatch, block, name, **environment) == value


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("1.2.3.4", ("1.2.3.4", 11434)),
        ("1.2.3.4:5678", ("1.2.3.4", 5678)),
        (":5678", ("0.0.0.0", 5678)),
        (":", ("0.0.0.0", 11434)),
        ("::1", ("::1", 11434)),
        ("[::1]", ("::1", 11434)),
        ("[::1]:80", ("::1", 80)),
        ("example.com", ("example.com", 11434)),
        ("example.com:66000", ("example.com", 11434)),
        ("example.com:-1", ("example.com", 11434)),
        ("http://1.2.3.4", ("1.2.3.4", 80)),
        ("https://1.2.3.4", ("1.2.3.4", 443)),
        ("https://1.2.3.4:4321", ("1.2.3.4", 4321)),
        ("http://", ("127.0.0.1", 80)),
        ("example.com:4321/ollama/", ("example.com", 4321)),
    ],
)
def test_ollama_host(text: str, address: tuple[str, int]) -> None:
    assert (host(text), port(text)) == address


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("true", True), ("yes", True), ("0", False), ("F", False)])
def test_a_flag(text: str, expected: bool) -> None:
    assert flag(text) is expected
