"""The SQL of a batch's lines: claimed by a gateway, answered once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

from psycopg.rows import class_row

from libs.common.database import Transaction


@dataclass(frozen=True)
class ClaimedLine:
    """With what is to be known of its batch."""

    batch_id: str
    number: int
    sealed: bytes
    tries: int
    losses: int
    organization_id: str
    user_id: str
    key_id: str | None
    endpoint: str

    @property
    def id(self) -> str:
        return line_id(self.batch_id, self.number)

    @property
    def request_id(self) -> str:
        """The same for every gateway: who takes the line over follows what runs already."""
        return uuid5(NAMESPACE_OID, f"{self.id}/{self.tries}").hex


@dataclass(frozen=True)
class DoneLine:
    """What was asked, of a line without an answer; else the answer."""

    number: int
    sealed: bytes | None
    answer: bytes | None
    succeeded: bool | None


def line_id(batch_id: str, number: int) -> str:
    return f"{batch_id}.{number}"


async def insert(tx: Transaction, batch_id: str, organization: str, lines: Sequence[tuple[int, bytes]]) -> None:
    """Those that are there already stay: two gateways that read one input read the same."""
    async with tx.cursor() as cursor:
        await cursor.executemany(
            """
            insert into batch_lines (id, organization_id, batch_id, number, sealed) values (%s, %s, %s, %s, %s)
            on conflict do nothing
            """,
            [(line_id(batch_id, number), organization, batch_id, number, sealed) for number, sealed in lines],
        )


async def claim(tx: Transaction, by: str, seconds: float, not_of: Collection[str] = ()) -> ClaimedLine | None:
    """The next line of a batch of the organization that has the fewest under way. ``not_of``: organizations."""
    async with tx.cursor(row_factory=class_row(ClaimedLine)) as cursor:
        await cursor.execute(
            """
            with busy as (
                select organization_id, count(*) as lines from batch_lines
                where succeeded is null and claimed_until > now() group by 1
            ), next as (
                select batches.* from batches left join busy using (organization_id)
                where status = 'in_progress' and waits_until <= now() and expires_at > now()
                and not organization_id = any(%s) and exists (
                    select from batch_lines where batch_id = batches.id and succeeded is null and claimed_until <= now()
                )
                order by coalesce(busy.lines, 0), batches.created_at limit 1
            ), line as (
                select batch_lines.id from batch_lines join next on next.id = batch_id
                where succeeded is null and batch_lines.claimed_until <= now()
                order by number limit 1 for update of batch_lines skip locked
            )
            update batch_lines set claimed_until = now() + make_interval(secs => %s), claimed_by = %s from line, next
            where batch_lines.id = line.id
            returning batch_id, number, sealed, tries, losses,
                      next.organization_id, next.user_id, next.key_id, next.endpoint
            """,
            [list(not_of), seconds, by],
        )
        return await cursor.fetchone()


async def keep_claims(tx: Transaction, by: str, ids: Sequence[str], seconds: float) -> None:
    await tx.execute(
        """
        update batch_lines set claimed_until = now() + make_interval(secs => %s)
        where id = any(%s) and claimed_by = %s and succeeded is null
        """,
        [seconds, list(ids), by],
    )


async def give_back(tx: Transaction, by: str, line: ClaimedLine, *, lost: bool, asked: bool) -> None:
    """Whoever claims it next asks for one try more, which is a request of its own; for the same if not ``asked``."""
    await tx.execute(
        """
        update batch_lines set claimed_until = now(), tries = %s, losses = %s
        where id = %s and claimed_by = %s and succeeded is null
        """,
        [line.tries + asked, line.losses + lost, line.id, by],
    )


async def answer(tx: Transaction, batch_id: str, number: int, answer: bytes, *, succeeded: bool) -> bool:
    """Counted with its batch, which is finalized after its last line.

    False if the line has an answer, is gone, or comes too late for the output that is being written.
    """
    rows = await tx.execute("select from batches where id = %s and claimed_until <= now() for update", [batch_id])
    if not rows.rowcount:
        return False
    rows = await tx.execute(
        "update batch_lines set answer = %s, succeeded = %s where id = %s and succeeded is null",
        [answer, succeeded, line_id(batch_id, number)],
    )
    if not rows.rowcount:
        return False
    await tx.execute(
        "update batches set completed = completed + %s, failed = failed + %s where id = %s",
        [int(succeeded), int(not succeeded), batch_id],
    )
    await tx.execute(
        """
        update batches set status = 'finalizing', finalizing_at = now()
        where id = %s and status = 'in_progress' and completed + failed = total
        """,
        [batch_id],
    )
    return True


async def some(tx: Transaction, batch_id: str, after: int, limit: int, most_bytes: int) -> list[DoneLine]:
    """In their order, answered or not. ``most_bytes``: of all but the last of them."""
    async with tx.cursor(row_factory=class_row(DoneLine)) as cursor:
        await cursor.execute(
            """
            with page as (
                select id, number, octet_length(coalesce(answer, sealed)) as size from batch_lines
                where batch_id = %s and number > %s order by number limit %s
            ), measured as (
                select id, sum(size) over (order by number) - size as before from page
            )
            select number, case when answer is null then sealed end as sealed, answer, succeeded
            from batch_lines join measured using (id) where before <= %s order by number
            """,
            [batch_id, after, limit, most_bytes],
        )
        return await cursor.fetchall()
