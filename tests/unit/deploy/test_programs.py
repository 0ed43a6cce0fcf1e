import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.errors import SetupError
from deploy.local.launch import start_time
from deploy.local.leftovers import running_programs
from deploy.local.programs import Program, require_free_ports
from tests.fixtures.ports import free_port

SLEEPER = Program("sleeper", ("/bin/sleep", "60"), {"SECRET": "x"})


def test_a_taken_port_is_named_with_the_setting_that_moves_it() -> None:
    port = free_port()
    refused = pytest.raises(SetupError, match=rf"port {port} \(sleeper\) is taken.*SLEEPER_PORT")
    with socket.create_server(("127.0.0.1", port)), refused:
        require_free_ports(replace(SLEEPER, ports={"SLEEPER_PORT": port}))
    require_free_ports(replace(SLEEPER, ports={"SLEEPER_PORT": port}))


def test_the_name_of_a_spec_follows_its_content(tmp_path: Path) -> None:
    path = SLEEPER.write_spec(tmp_path)
    assert path == SLEEPER.write_spec(tmp_path)
    assert path != replace(SLEEPER, env={"SECRET": "y"}).write_spec(tmp_path)


def test_only_the_owner_reads_a_spec(tmp_path: Path) -> None:
    path = SLEEPER.write_spec(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["env"]["SECRET"] == "x"


def test_a_pid_that_another_process_got_since_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    (tmp_path / "pids" / "ours").write_text(f"{os.getpid()} {start_time(os.getpid())} TERM")
    (tmp_path / "pids" / "reused").write_text(f"{os.getpid()} 1 TERM")
    (tmp_path / "pids" / "cut-short").write_text("")
    assert [program.name for program in running_programs(tmp_path)] == ["ours"]
