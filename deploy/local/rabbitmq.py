"""A RabbitMQ node of our own from the system's package: own name, cookie, data, ports and port mapper (epmd)."""

import os
import secrets
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import SetupError
from deploy.local.programs import SYSTEM_PATH, Program, private_directory, write_private
from deploy.local.servers import Server

ADVICE = "install rabbitmq-server, set RABBITMQ_HOME to where it is, or set RABBITMQ_URL to a server that runs"

APT_SECONDS = 600


@dataclass(frozen=True)
class RabbitPorts:
    amqp: int
    distribution: int
    epmd: int
    management: int | None = None
    """None: no management plugin, which saves a second or two at the start."""


def rabbitmq_server(run_dir: Path, ports: RabbitPorts, password: str, installed: str | None = None) -> Server:
    """``installed``: where, if not in the usual place. Raises ``SetupError`` if it is nowhere and cannot be had."""
    script = find_server_script(installed) or _install()
    home = private_directory(run_dir / "rabbitmq")
    config, plugins = home / "rabbitmq.conf", home / "enabled_plugins"
    write_private(config, _configuration(ports, password))
    write_private(plugins, "[rabbitmq_management].\n" if ports.management else "[].\n")
    _write_cookie(home)
    erlang = shutil.which("erl")
    if erlang is None:
        raise SetupError(f"RabbitMQ is here ({script}) but Erlang's `erl` is not on the PATH: {ADVICE}")
    env = {
        "PATH": f"{Path(erlang).parent}:{SYSTEM_PATH}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "ollamamax@localhost",
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_CONFIG_FILE": str(config),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        # Makes the script become the node instead of watching over it; -noinput undoes the shell this is meant for.
        "RABBITMQ_ALLOW_INPUT": "1",
    }
    mapper = (_epmd(erlang), "-port", str(ports.epmd), "-address", "127.0.0.1")
    node_ports = {"RABBITMQ_PORT": ports.amqp, "RABBITMQ_DISTRIBUTION_PORT": ports.distribution}
    if ports.management:
        node_ports["RABBITMQ_MANAGEMENT_PORT"] = ports.management
    node = Program("rabbitmq", (str(script), "-noinput"), env, ports=node_ports)
    url = f"amqp://ollamamax:{password}@127.0.0.1:{ports.amqp}/"
    return Server(
        "rabbitmq",
        url,
        (Program("epmd", mapper, env, ports={"EPMD_PORT": ports.epmd}), node),
        lambda: answers("127.0.0.1", ports.amqp),
    )


def answers(host: str, port: int) -> bool:
    """It greets us as AMQP 0-9-1 demands, which it does once it is completely up."""
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


def find_server_script(installed: str | None = None) -> Path | None:
    """The server's own script. Debian's wrapper in /usr/sbin insists on the system's node, so it will not do."""
    homes = [Path(installed)] if installed else []
    homes += sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"), reverse=True)
    on_path = shutil.which("rabbitmq-server")
    if on_path is not None:
        homes.append(Path(on_path).resolve().parents[1])
    scripts = [home / "sbin" / "rabbitmq-server" for home in homes]
    return next((script for script in scripts if script.with_name("rabbitmq-env").exists()), None)


def _configuration(ports: RabbitPorts, password: str) -> str:
    lines = [
        f"listeners.tcp.1 = 127.0.0.1:{ports.amqp}",
        "default_user = ollamamax",
        f"default_pass = {password}",
        # A running generation keeps its delivery unacknowledged for as long as it takes.
        "consumer_timeout = 86400000",
        "disk_free_limit.absolute = 100MB",
        "vm_memory_high_watermark.relative = 0.3",
        "log.console = true",
        "log.console.level = warning",
        "log.file = false",
    ]
    if ports.management:
        lines += ["management.tcp.ip = 127.0.0.1", f"management.tcp.port = {ports.management}"]
        lines += ["collect_statistics_interval = 10000"]
    return "\n".join(lines) + "\n"


def _write_cookie(home: Path) -> None:
    cookie = home / ".erlang.cookie"
    if not cookie.exists():
        write_private(cookie, secrets.token_hex(20))
        cookie.chmod(0o400)


def _epmd(erlang: str) -> str:
    beside = [Path(erlang).with_name("epmd"), *Path(erlang).resolve().parents[1].glob("erts-*/bin/epmd")]
    return str(next(path for path in beside if path.exists()))


def _install() -> Path:
    """From the system's packages if we may. Raises ``SetupError`` otherwise."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SetupError(f"RabbitMQ is not installed: {ADVICE}")
    print("installing RabbitMQ with apt-get ...", flush=True)
    # The package would start a node on 5672. policy-rc.d is how Debian lets an administrator say no.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", "rabbitmq-server")
    finally:
        if ours:
            policy.unlink()
    script = find_server_script()
    if script is None:
        raise SetupError(f"apt-get installed RabbitMQ, but its server script is not where it should be: {ADVICE}")
    return script


def _apt(*arguments: str) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        command = ["apt-get", "-q", *arguments]
        subprocess.run(command, check=True, timeout=APT_SECONDS, env=env, stdin=subprocess.DEVNULL)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"apt-get {arguments[0]} failed: {ADVICE}") from error
