"""The SQL of failed logins."""

from libs.common.database import Transaction


async def seconds_locked(tx: Transaction, subjects: list[str]) -> float:
    """Until the last of them is free; 0: none is locked."""
    rows = await tx.execute(
        """
        select coalesce(extract(epoch from max(locked_until) - now())::float8, 0) from login_failures
        where subject = any(%s) and locked_until > now()
        """,
        [subjects],
    )
    row = await rows.fetchone()
    assert row is not None
    return float(row[0])


async def count_failure(tx: Transaction, subject: str, forgotten_after_seconds: float) -> int:
    """How many there were, with this one, since they were last forgotten."""
    rows = await tx.execute(
        """
        insert into login_failures as known (subject, failures) values (%s, 1)
        on conflict (subject) do update set failed_at = now(), failures = 1 + case
            when greatest(known.failed_at, known.locked_until) < now() - make_interval(secs => %s) then 0
            else known.failures end
        returning failures
        """,
        [subject, forgotten_after_seconds],
    )
    row = await rows.fetchone()
    assert row is not None
    return int(row[0])


async def lock(tx: Transaction, subject: str, seconds: float) -> None:
    await tx.execute(
        "update login_failures set locked_until = now() + make_interval(secs => %s) where subject = %s",
        [seconds, subject],
    )


async def forget(tx: Transaction, subject: str) -> None:
    await tx.execute("delete from login_failures where subject = %s", [subject])


async def forget_all(tx: Transaction, after_seconds: float) -> None:
    await tx.execute(
        "delete from login_failures where greatest(failed_at, locked_until) < now() - make_interval(secs => %s)",
        [after_seconds],
    )
