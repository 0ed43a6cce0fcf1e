"""What a service has of one person, as it is handed to them."""

from typing import Any

from pydantic import Field

from libs.common.contracts.message import Value

MOST_ROWS = 5000


class ExportedRows(Value):
    """Newest first. Times are seconds since the epoch."""

    rows: tuple[dict[str, Any], ...] = Field((), repr=False)
    truncated: bool = Field(False, description="there are older ones, which are left out")


def exported(rows: list[dict[str, Any]]) -> ExportedRows:
    """Of rows that were asked for with ``MOST_ROWS + 1``."""
    return ExportedRows(rows=tuple(rows[:MOST_ROWS]), truncated=len(rows) > MOST_ROWS)
