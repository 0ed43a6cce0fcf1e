"""Recovery codes: each is good once, instead of a code from the app that is lost."""

import base64
import hashlib
import secrets
from typing import Final
from uuid import UUID

from libs.common.database import Transaction
from services.auth.store import second_factor as second_factor_store

HOW_MANY: Final = 10
RANDOM_BYTES: Final = 10
GROUP: Final = 4


def new_codes() -> tuple[str, ...]:
    return tuple(
        _grouped(base64.b32encode(secrets.token_bytes(RANDOM_BYTES)).decode().lower()) for _ in range(HOW_MANY)
    )


def digest_of(code: str) -> str:
    """Case, dashes and spaces do not matter: people copy them from paper."""
    return hashlib.sha256("".join(code.split()).replace("-", "").lower().encode()).hexdigest()


async def replace(tx: Transaction, user_id: UUID) -> tuple[str, ...]:
    codes = new_codes()
    await second_factor_store.replace_recovery_codes(tx, user_id, [digest_of(code) for code in codes])
    return codes


def _grouped(text: str) -> str:
    return "-".join(text[start : start + GROUP] for start in range(0, len(text), GROUP))
