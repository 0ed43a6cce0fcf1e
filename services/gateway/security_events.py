"""Refusals for the audit log, told off the path of the request: a flood of them slows nobody down and fills no disk."""

from typing import Final

import structlog
from cachetools import TTLCache
from prometheus_client import Counter

from libs.common import actor, audit
from libs.common.bus.base import Bus
from libs.common.contracts.auth.audit import RecordAudit
from libs.common.errors import ServiceError
from libs.common.tasks import Tasks

log = structlog.get_logger(__name__)

SAME_SECONDS: Final = 60.0
"""The same refusal of the same caller is told once in this time."""

MOST: Final = 600
"""Refusals told in that time."""

dropped_total = Counter("gateway_security_events_dropped_total", "Refusals that the audit log was not told of", ["why"])


class SecurityEvents:
    def __init__(self, bus: Bus, tasks: Tasks) -> None:
        self._bus = bus
        self._tasks = tasks
        self._told: TTLCache[tuple[str, ...], None] = TTLCache(MOST, SAME_SECONDS)

    def tell(self, action: str, object_id: str, *, status: int, credential: str) -> None:
        """Of the current actor. ``credential``: as much of it as may be shown."""
        who = actor.current()
        same = (action, object_id, who.ip, who.user_id, who.key_id, credential)
        if same in self._told:
            dropped_total.labels("repeated").inc()
        elif len(self._told) >= MOST:
            dropped_total.labels("too many").inc()
        else:
            self._told[same] = None
            event = audit.event("gateway", action, object_id, {"status": status, "credential": credential})
            self._tasks.start(self._send(event), f"security event {action}")

    async def _send(self, event: RecordAudit) -> None:
        try:
            await self._bus.send(event)
        except ServiceError as error:
            dropped_total.labels("not sent").inc()
            log.warning(
                "a refusal is not in the audit log", action=event.action, object=event.object, why=error.message
            )
