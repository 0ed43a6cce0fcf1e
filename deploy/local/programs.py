"""A program as a value: how to start it, how to stop it, which ports it needs."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from deploy.local.errors import SetupError

ROOT = Path(__file__).parents[2]

# The same for everybody, so that a second `up` from another shell does not look like a change.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Program:
    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    """System account it runs as; None: the caller's."""

    ports: Mapping[str, int] = field(default_factory=dict)
    """The setting that chooses the port, and the port."""

    host: str = "127.0.0.1"
    """Address its ports are bound on."""

    stop_signal: str = "TERM"
    stop_seconds: int = 30

    def write_spec(self, run_dir: Path) -> Path:
        """What ``deploy.local.launch`` starts. Its name changes with its content, so that a change is seen."""
        spec = {
            "argv": self.argv,
            "env": {"PATH": SYSTEM_PATH, **self.env},
            "user": self.user,
            "stop_signal": self.stop_signal,
            "pid_file": str(run_dir / "pids" / self.name),
        }
        text = json.dumps(spec, indent=1, sort_keys=True)
        path = run_dir / "programs" / f"{self.name}.{sha256(text.encode()).hexdigest()[:8]}.json"
        write_private(path, text)
        return path


def private_directory(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, and never a half of it."""
    private_directory(path.parent)
    fresh = path.with_name(path.name + ".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(path)


def require_free_ports(program: Program) -> None:
    """Raises ``SetupError`` with the port and the setting that moves it."""
    for setting, port in program.ports.items():
        if not _is_free(program.host, port):
            raise SetupError(f"port {port} ({program.name}) is taken: stop what uses it, or set {setting} to another")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
