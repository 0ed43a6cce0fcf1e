"""E-mail addresses, as they are stored and compared. Pure."""

import re

from libs.common.errors import InvalidRequest

LONGEST_BYTES = 254
"""As mail servers take it; and with all of it escaped, it still fits into a QR code."""

ADDRESS = re.compile(r"[^@\s]{1,64}@[^@\s]{1,189}")


def normalised(email: str) -> str:
    """Addresses differ by case in theory only."""
    return email.strip().lower()


def is_address(text: str) -> bool:
    return text.isprintable() and len(text.encode()) <= LONGEST_BYTES and ADDRESS.fullmatch(text) is not None


def checked(email: str) -> str:
    """Normalised. Raises ``InvalidRequest`` for what is no address."""
    address = normalised(email)
    if not is_address(address):
        raise InvalidRequest("email is not an e-mail address")
    return address
