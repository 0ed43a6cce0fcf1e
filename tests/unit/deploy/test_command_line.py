import subprocess
import sys

import pytest

from tests.fixtures.suite import ROOT


@pytest.mark.parametrize(
    "words",
    [
        ["ledger-check", "--days", "3"],
        ["audit", "verify", "--known", "1:00"],
        ["audit", "export", "--from", "2026-01-01", "--file", "/dev/null"],
        ["dead", "list"],
    ],
)
def test_what_follows_a_command_is_that_commands_own(words: list[str]) -> None:
    """Whether a suite runs here or not: it is not the command line that complains."""
    command = [sys.executable, "-m", "deploy.local", *words]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "unrecognized arguments" not in done.stderr
