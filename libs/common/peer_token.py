"""What a worker wants to be shown before it gives a blob to a peer: good for one digest and for some minutes.

Each worker makes a key when it starts and tells it to the registry; the registry signs with the key of the worker that
it names. So a token opens one blob on one worker, and nobody but these two could have made it.
"""

import hmac
import time
from typing import Final

LIFETIME_SECONDS: Final = 900.0


def issue(key: str, digest: str, now: float | None = None) -> str:
    """``<expiry>.<signature>``"""
    expires_at = str(int((now or time.time()) + LIFETIME_SECONDS))
    return f"{expires_at}.{_signature(key, digest, expires_at)}"


def is_valid(key: str, token: str, digest: str, now: float | None = None) -> bool:
    expires_at, _, signature = token.partition(".")
    if not hmac.compare_digest(signature.encode(), _signature(key, digest, expires_at).encode()):
        return False
    return int(expires_at) > (now or time.time())  # signed, so it is a number of ours


def _signature(key: str, digest: str, expires_at: str) -> str:
    return hmac.new(key.encode(), f"{digest}\n{expires_at}".encode(), "sha256").hexdigest()
