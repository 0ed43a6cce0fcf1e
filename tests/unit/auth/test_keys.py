import hashlib
import re

from services.auth.keys import digest_of, new_key


def test_format_of_a_key() -> None:
    key = new_key()
    assert re.fullmatch(r"omx_[A-Za-z0-9_-]{43}", key)
    assert new_key() != key


def test_digest() -> None:
    assert digest_of("omx_abc") == hashlib.sha256(b"omx_abc").hexdigest()
