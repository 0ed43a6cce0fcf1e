"""Every table that says what people did is audited; each of the others has its reason here."""

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

NOT_AUDITED = {
    "*._yoyo_log": "yoyo's",
    "*._yoyo_migration": "yoyo's",
    "*._yoyo_version": "yoyo's",
    "*.yoyo_lock": "yoyo's",
    "*.outbox": "messages on their way, audit events among them",
    "auth.audit_log": "the log itself",
    "auth.audit_head": "the log itself: signed",
    "auth.audit_archives": "the log itself: signed",
    "auth.user_sessions": "every use writes it; logins, logouts and reuse are events",
    "auth.login_failures": "counters; login.failed and login.locked are events",
    "auth.erased_users": "ids that must not come back; erasing is an event",
    "auth.token_ledger": "a ledger: rows are only added, and reconciled with the journal",
    "auth.daily_usage": "sums of the ledger",
    "gateway.system_config_history": "written with system_config, which is audited",
    "gateway.file_chunks": "prompts and answers: they must not be in the log; files are",
    "gateway.batch_lines": "prompts and answers: they must not be in the log; batches are",
    "gateway.responses": "prompts and answers, for a while: they must not be in the log; requests are in the journal",
    "registry.blobs": "bytes on disk, known by their digest",
    "registry.model_layers": "which blobs an audited model is made of",
    "registry.model_versions": "what an audited model has been",
    "registry.model_additions": "operations under way; their models are audited",
    "registry.brought_blobs": "who uploaded bytes, for a while",
    "registry.peers": "heartbeats of registries",
    "registry.cached_blobs": "a cache",
    "registry.model_replicas": "where bytes are",
    "scheduler.inference_requests": "a journal: rows are only added",
    "scheduler.stored_exchanges": "prompts: they must not be in the log",
    "scheduler.node_reports": "heartbeats of nodes; what people set is in nodes",
}


@pytest.fixture
def tables(postgres_url: str, service_urls: dict[str, str]) -> dict[str, set[str]]:
    """Of all services, but partitions: schema.table to its triggers."""
    inside = make_conninfo(postgres_url, dbname=str(conninfo_to_dict(service_urls["auth"])["dbname"]))
    with psycopg.connect(inside) as admin:
        rows = admin.execute(
            """
            select nspname || '.' || relname, array_remove(array_agg(tgname::text), null)
            from pg_class join pg_namespace on pg_namespace.oid = relnamespace
            left join pg_trigger on tgrelid = pg_class.oid
            where nspname = any(%s) and relkind in ('r', 'p') and not relispartition group by 1
            """,
            [list(service_urls)],
        )
        return {table: set(triggers) for table, triggers in rows.fetchall()}


def reason(table: str) -> str | None:
    return NOT_AUDITED.get(table) or NOT_AUDITED.get(f"*.{table.partition('.')[2]}")


def test_every_table_is_audited_or_has_a_reason_not_to_be(tables: dict[str, set[str]]) -> None:
    audited = {table for table, triggers in tables.items() if {"audit", "audit_truncate"} <= triggers}
    assert {table for table in tables if reason(table) is None} - audited == set(), "call audited() in its migration"
    assert {table for table in audited if reason(table)} == set(), "it is audited after all"


def test_no_reason_is_left_of_a_table_that_is_gone(tables: dict[str, set[str]]) -> None:
    assert {name for name in NOT_AUDITED if not name.startswith("*")} - tables.keys() == set()
