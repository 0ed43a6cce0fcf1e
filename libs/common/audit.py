"""Security events that are no change of a row: told to the audit log with the transaction that belongs to them.

Changes of rows need no call: a migration that says ``call audited('table', 'id', 'secret_column')`` records them all.
"""

import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import msgspec

from libs.common import actor, outbox
from libs.common.contracts.auth.audit import RecordAudit
from libs.common.database import Transaction


async def record(
    tx: Transaction, service: str, action: str, object_id: str = "", *, details: Mapping[str, Any] | None = None
) -> None:
    """``action``: ``<what>.<happened>``, as ``login.failed``. ``details`` hold no secrets."""
    await outbox.stage(tx, event(service, action, object_id, details))


def event(service: str, action: str, object_id: str, details: Mapping[str, Any] | None) -> RecordAudit:
    """Of the current actor, now. For who has no transaction to stage it in."""
    return RecordAudit(
        event_id=str(uuid4()),
        at=time.time(),
        service=service,
        action=action,
        object=object_id,
        **msgspec.structs.asdict(actor.current()),
        after=dict(details) if details is not None else None,
    )
