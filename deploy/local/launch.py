"""Becomes a program: ``python -m deploy.local.launch SPEC``.

The environment comes from the spec alone, so that secrets are in one private file, and neither in the supervisor's
configuration nor in ``ps``. The pid stays the same, and is written down for the day the supervisor itself is killed.
"""

import json
import os
import pwd
import sys
from pathlib import Path


def main(spec_path: str) -> None:
    spec = json.loads(Path(spec_path).read_text())
    pid_file = Path(spec["pid_file"])
    pid_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pid_file.write_text(f"{os.getpid()} {start_time(os.getpid())} {spec['stop_signal']}")
    if spec["user"] is not None:
        become(spec["user"])
    os.execve(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606  the spec is ours


def become(user: str) -> None:
    account = pwd.getpwnam(user)
    os.chdir("/")
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def start_time(pid: int) -> str | None:
    """In clock ticks since boot: with the pid it names one process for ever. None: there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]


if __name__ == "__main__":
    main(sys.argv[1])
