"""``python -m services.auth.audit``."""

import json
from pathlib import Path

import pytest

from services.auth.audit.__main__ import main
from services.auth.audit.log import AuditLog
from tests.integration.audit.conftest import KEY, Tamper, an_event


@pytest.fixture
async def log(audit_log: AuditLog, service_urls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> AuditLog:
    """With three entries, of three days."""
    monkeypatch.setenv("POSTGRES_URL", service_urls["auth"])
    monkeypatch.setenv("AUTH_SECRET_KEY", KEY)
    await audit_log.append([an_event(at=86_400.0 * day, object=f"day {day}") for day in range(3)])
    return audit_log


async def test_a_whole_log(log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    assert await main(["verify"]) == 0
    said = capsys.readouterr().out.strip()
    assert said.startswith("the audit log is whole; it ends with 3:")
    assert await main(["verify", "--known", said.rpartition(" ")[2]]) == 0


async def test_a_broken_log(log: AuditLog, tamper: Tamper, capsys: pytest.CaptureFixture[str]) -> None:
    tamper("update audit_log set object = 'another day' where seq = 2")
    assert await main(["verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "row 2 was changed, or never written by auth"
    assert lines[1].startswith("the audit log is broken")


async def test_a_log_that_does_not_have_what_was_noted(log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    assert await main(["verify", "--known", f"4:{'00' * 32}"]) == 1
    assert await main(["verify", "--known", f"3:{'00' * 32}"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0::2] == ["row 4 is missing", "row 3 is not the one that was noted"]


async def test_another_key_opens_nothing(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_SECRET_KEY", KEY.replace("A", "B", 1))
    with pytest.raises(SystemExit, match="AUTH_SECRET_KEY"):
        await main(["verify"])


async def test_an_export_of_some_days(log: AuditLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log.jsonl"
    assert await main(["export", "--from", "1970-01-02", "--to", "1970-01-03T00:00:00Z", "--file", str(file)]) == 0
    assert [json.loads(line)["object"] for line in file.read_text().splitlines()] == ["day 1"]
    assert await main(["export"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
