"""What `make up` was asked for: the caller's environment and `.env`, the ports, and the secrets made once."""

import base64
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from deploy.local.errors import SetupError
from deploy.local.programs import ROOT, write_private
from deploy.postgres.provision import ROLES
from libs.common.ollama_variables import host as ollama_host
from libs.common.ollama_variables import port as ollama_port
from libs.common.ollama_variables import unquoted

RUN_DIR = ROOT / ".run"

DEFAULT_PORTS = {
    "GATEWAY_PORT": 11434,
    "GATEWAY_OPS_PORT": 11436,
    "AUTH_OPS_PORT": 11441,
    "REGISTRY_OPS_PORT": 11442,
    "SCHEDULER_OPS_PORT": 11443,
    "WORKER_OPS_PORT": 11444,  # of the first worker; the others follow it
    "WORKER_PEER_PORT": 14001,  # likewise
    "POSTGRES_PORT": 15432,
    "REDIS_PORT": 16379,
    "RABBITMQ_PORT": 15673,
    "RABBITMQ_MANAGEMENT_PORT": 15674,
    "RABBITMQ_DISTRIBUTION_PORT": 17000,
    "EPMD_PORT": 14369,
    "JAEGER_PORT": 16686,
    "OTLP_PORT": 14318,
}

FREE_BYTES_NEEDED = 2 * 1024**3


@dataclass(frozen=True)
class Config:
    run_dir: Path
    env: Mapping[str, str]
    secrets: Mapping[str, str]
    workers: int

    def port(self, setting: str) -> int:
        value = self.env.get(setting) or str(DEFAULT_PORTS[setting])
        if not value.isdecimal() or not 0 < int(value) < 65536:
            raise SetupError(f"{setting} must be a port between 1 and 65535, not {value!r}")
        return int(value)


def load_config(run_dir: Path = RUN_DIR, dotenv: Path = ROOT / ".env") -> Config:
    """Raises ``SetupError``. Makes ``run_dir`` and the secrets if they are not there."""
    run_dir.mkdir(parents=True, exist_ok=True)
    # 0700 would keep Postgres's account out when root runs us; what is private inside has its own mode.
    run_dir.chmod(0o711)
    given = {name: value for name, value in os.environ.items() if value}
    env = with_ollama_names({**_dotenv(dotenv), **given})
    kept = _secrets(run_dir / "secrets.env", env)
    old_keys = {name: value for name, value in kept.items() if name.endswith("_OLD_SECRET_KEYS")}
    return Config(run_dir, {**env, **old_keys}, kept, _worker_count(run_dir, env))


def require_space(run_dir: Path) -> None:
    """To start anything. Raises ``SetupError``."""
    free = shutil.disk_usage(run_dir if run_dir.exists() else run_dir.parent).free
    if free < FREE_BYTES_NEEDED:
        raise SetupError(f"only {free / 1024**3:.1f} GB are free on the disk of {run_dir}: make room, 2 GB are needed")


def with_ollama_names(env: Mapping[str, str]) -> dict[str, str]:
    """What we decide for the services ourselves, decided by Ollama's variables where ours are not set."""
    given = {name: text for name in ("OLLAMA_HOST", "OLLAMA_MODELS") if (text := unquoted(env.get(name, "")))}
    named = {}
    if address := given.get("OLLAMA_HOST"):
        named = {"GATEWAY_HOST": ollama_host(address), "GATEWAY_PORT": str(ollama_port(address))}
    if directory := given.get("OLLAMA_MODELS"):
        named["REGISTRY_DATA_DIR"] = directory
    return {**env, **{name: value for name, value in named.items() if not env.get(name)}}


def _dotenv(path: Path) -> dict[str, str]:
    return {name: value for name, value in dotenv_values(path).items() if value is not None}


def _secrets(path: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Kept for as long as the data that they open; the environment wins over them."""
    kept = _dotenv(path)
    fresh = {f"{name}_PASSWORD": secrets.token_hex(16) for name in ("POSTGRES", "RABBITMQ", "REDIS")}
    fresh |= {f"{role.upper()}_DB_PASSWORD": secrets.token_hex(16) for role in ROLES}
    fresh |= {
        "AUTH_ADMIN_PASSWORD": secrets.token_urlsafe(12),
        "AUTH_SECRET_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "GATEWAY_SECRET_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "SCHEDULER_SECRET_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "BLOB_TOKEN": secrets.token_urlsafe(24),
    }
    complete = {**fresh, **kept}
    if complete != kept:
        write_private(path, "".join(f"{name}={value}\n" for name, value in complete.items()))
    return {name: env.get(name) or value for name, value in complete.items()}


def _worker_count(run_dir: Path, env: Mapping[str, str]) -> int:
    """As asked, else as many as last time, so that a second `make up` changes nothing."""
    kept = run_dir / "workers"
    before = kept.read_text() if kept.exists() else ""
    asked = env.get("WORKERS") or before or "1"
    if not asked.isdecimal() or not 1 <= int(asked) <= 64:
        raise SetupError(f"WORKERS must be a number from 1 to 64, not {asked!r}")
    if asked != before:
        write_private(kept, asked)
    return int(asked)
