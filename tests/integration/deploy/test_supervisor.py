"""Our use of the real supervisor, with programs that only sleep."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.leftovers import end_leftovers, running_programs
from deploy.local.programs import Program
from deploy.local.supervisor import Supervisor

ONE = Program("one", ("/bin/sleep", "600"))
TWO = Program("two", ("/bin/sleep", "600"))


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def start(supervisor: Supervisor, *names: str) -> None:
    """A signal sent before the program has replaced the supervisor's fork would be lost, so wait until it has."""
    for name in names:
        supervisor.start(name)
    until(lambda: {program.name for program in running_programs(supervisor.run_dir)} >= set(names))


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    supervisor.configure([ONE, TWO])
    start(supervisor, "one", "two")
    yield supervisor
    if supervisor.runs():
        supervisor.shutdown()
    end_leftovers(tmp_path, servers=())


def pid(supervisor: Supervisor, name: str) -> int:
    return int(supervisor.process(name)["pid"])


def test_a_program_that_dies_is_started_again(supervisor: Supervisor) -> None:
    until(lambda: supervisor.process("one")["statename"] == "RUNNING")
    before = pid(supervisor, "one")
    os.kill(before, signal.SIGKILL)
    until(lambda: pid(supervisor, "one") not in {0, before})


def test_only_what_changed_is_touched(supervisor: Supervisor) -> None:
    one, two = pid(supervisor, "one"), pid(supervisor, "two")
    three = replace(ONE, name="three")
    supervisor.configure([ONE, replace(TWO, env={"NEW": "1"}), three])
    start(supervisor, "one", "two", "three")
    assert pid(supervisor, "one") == one
    assert pid(supervisor, "two") not in {0, two}
    assert pid(supervisor, "three")
    supervisor.configure([ONE])
    assert [process["name"] for process in supervisor.processes()] == ["one"]
    assert pid(supervisor, "one") == one


def test_shutdown_leaves_nothing(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.shutdown()
    assert not supervisor.runs()
    assert running_programs(tmp_path) == []


def test_what_a_killed_supervisor_leaves_is_found_and_ended(supervisor: Supervisor, tmp_path: Path) -> None:
    os.kill(int((tmp_path / "supervisord.pid").read_text()), signal.SIGKILL)
    until(lambda: not supervisor.runs())
    assert end_leftovers(tmp_path, servers=("two",)) == ["one", "two"]
    assert running_programs(tmp_path) == []
    supervisor.configure([ONE])
    start(supervisor, "one")
