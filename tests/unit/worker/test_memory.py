"""What a container leaves a process, by the files of its control groups."""

from pathlib import Path

import psutil
import pytest

from services.worker.memory import available_bytes, rooms


def a_group(path: Path, limit: str, used: int, stat: str, *, version: int) -> None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    path.mkdir(parents=True, exist_ok=True)
    for name, content in zip((*names, "memory.stat"), (limit, str(used), stat), strict=True):
        (path / name).write_text(content + "\n")


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def test_every_group_of_version_2_around_it_counts(tmp_path: Path, membership: Path) -> None:
    membership.write_text("0::/pod/worker\n")
    a_group(tmp_path / "pod" / "worker", "1000", 700, "anon 1\ninactive_file 100\nactive_file 50", version=2)
    a_group(tmp_path / "pod", "max", 10, "inactive_file 0", version=2)
    assert list(rooms(membership, tmp_path)) == [1000 - 700 + 150]


def test_version_1(tmp_path: Path, membership: Path) -> None:
    membership.write_text("5:cpu:/x\n4:memory:/pod\n")
    a_group(tmp_path / "memory" / "pod", "1000", 400, "total_inactive_file 30\ninactive_file 7", version=1)
    a_group(tmp_path / "memory", "9223372036854771712", 5000, "cache 0", version=1)
    assert min(rooms(membership, tmp_path)) == 1000 - 400 + 30


def test_a_path_of_the_host_means_the_top_in_a_container(tmp_path: Path, membership: Path) -> None:
    membership.write_text("0::/kubepods/somewhere/else\n")
    a_group(tmp_path, "500", 100, "inactive_file 0", version=2)
    assert list(rooms(membership, tmp_path)) == [400]


@pytest.mark.parametrize("content", [None, "", "0::/nowhere\n"])
def test_without_control_groups_there_is_no_bound(tmp_path: Path, membership: Path, content: str | None) -> None:
    if content is not None:
        membership.write_text(content)
    assert list(rooms(membership, tmp_path)) == []


def test_of_this_machine() -> None:
    assert 0 < available_bytes() <= psutil.virtual_memory().total
