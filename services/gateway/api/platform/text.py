"""What texts of the platform's bodies have in common."""

from typing import Final

NO_NUL: Final = r"^[^\x00]*$"
"""Postgres cannot store it."""
