"""How much memory there is for models: the machine's, or what its container leaves this process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psutil

MEMBERSHIP: Final = Path("/proc/self/cgroup")
CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")


class Files(NamedTuple):
    """What a control group calls its bound, what of it is used, and of that the pages of files, which it can drop."""

    limit: str
    used: str
    pages: tuple[str, str]


V1: Final = Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
V2: Final = Files("memory.max", "memory.current", ("inactive_file", "active_file"))


def available_bytes() -> int:
    """Mapped weights of models in memory count as available: the kernel would drop them first."""
    return max(0, min((psutil.virtual_memory().available, *rooms(MEMBERSHIP, CONTROL_GROUPS))))


def rooms(membership: Path, root: Path) -> Iterator[int]:
    """What each control group around a process still lets it take, in bytes. None elsewhere than on Linux."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            files, top = (V1, root / "memory") if controllers else (V2, root)
            for group in _groups(top, path):
                yield from _room(group, files)


def _groups(top: Path, path: str) -> Iterator[Path]:
    """From the innermost outwards. In a container the path may be that of the host: then only the top is there."""
    group = top / path.lstrip("/")
    while group != top:
        yield group
        group = group.parent
    yield top


def _room(group: Path, files: Files) -> Iterator[int]:
    try:
        limit = (group / files.limit).read_text().strip()
        used = int((group / files.used).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if limit != "max":
        yield int(limit) - used + sum(int(stat.get(pages, 0)) for pages in files.pages)
