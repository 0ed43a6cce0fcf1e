"""The second factor: offered, activated, demanded at each login, removed; and who may not go without."""

import hmac
import time
from typing import Final
from uuid import UUID

import pyotp

from libs.common import audit
from libs.common.contracts.permissions import Permission
from libs.common.database import Transaction
from libs.common.errors import SecondFactorRequired, WrongCode
from services.auth import recovery_codes
from services.auth.context import Context
from services.auth.store import second_factor as second_factor_store
from services.auth.store.second_factor import Totp
from services.auth.store.users import User

PERIOD_SECONDS: Final = 30
WINDOW: Final = 1
DIGITS: Final = 6

UNTIL_SET_UP: Final = frozenset({Permission.SELF_READ, Permission.SELF_MANAGE})
"""In place of a role's permissions, for a member who must have a second factor and has none: what setting it up takes,
also where the role has neither."""


async def demand(ctx: Context, tx: Transaction, user: User, code: str) -> None:
    """Nothing for users without one. The code, from the app or a recovery code, is used up with the transaction.

    Raises ``SecondFactorRequired`` for no code and ``WrongCode``, which counts as a failed login.
    """
    totp = await second_factor_store.totp_of(tx, user.id)
    if totp is None or totp.activated_at is None:
        return
    if not code.strip():
        raise SecondFactorRequired
    counter = matching_counter(secret_of(ctx, user.id, totp), code, time.time())
    if counter is not None and await second_factor_store.use_counter(tx, user.id, counter):
        return
    if not await second_factor_store.use_recovery_code(tx, user.id, recovery_codes.digest_of(code)):
        raise WrongCode
    await audit.record(tx, "auth", "recovery_code.used", str(user.id))


def secret_of(ctx: Context, user_id: UUID, totp: Totp) -> str:
    return ctx.sealing.open(totp.sealed_secret, second_factor_store.place_of(user_id)).decode()


def matching_counter(secret: str, code: str, at: float) -> int | None:
    """The period whose code this is, of the current one and its neighbours; always after the same work."""
    given, now, found = "".join(code.split()).encode(), int(at) // PERIOD_SECONDS, None
    for counter in range(now - WINDOW, now + WINDOW + 1):
        if hmac.compare_digest(pyotp.HOTP(secret, digits=DIGITS).at(counter).encode(), given):
            found = counter
    return found
