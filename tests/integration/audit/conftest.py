"""Events to be recorded, and a log to record them in."""

import base64
import time
from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from libs.common.contracts.auth.audit import RecordAudit
from libs.common.database import Database
from libs.common.sealing import Ring
from services.auth.audit.log import AuditLog, open_log

Tamper = Callable[..., None]
KEY = base64.b64encode(bytes(32)).decode()
RING = Ring(bytes(32))


def an_event(**columns: object) -> RecordAudit:
    given = {"event_id": str(uuid4()), "at": time.time(), "service": "auth", "action": "thing.happened"}
    return RecordAudit.model_validate(given | columns)


@pytest.fixture
async def audit_log(auth_db: Database) -> AuditLog:
    return await open_log(auth_db, RING)


@pytest.fixture
def tamper(postgres_url: str, service_urls: dict[str, str]) -> Tamper:
    inside = make_conninfo(postgres_url, dbname=str(conninfo_to_dict(service_urls["auth"])["dbname"]))

    def run(*statements: str) -> None:
        with psycopg.connect(inside, options="-c session_replication_role=replica -c search_path=auth") as superuser:
            for statement in statements:
                assert superuser.execute(statement.encode()).rowcount != 0, "it changed something"

    return run
