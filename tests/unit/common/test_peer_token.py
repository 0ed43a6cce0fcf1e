import pytest

from libs.common import peer_token

DIGEST = "sha256:" + "a" * 64
NOW = 1_000_000.0
TOKEN = peer_token.issue("key", DIGEST, NOW)


def test_opens_its_blob_on_its_worker_for_a_while() -> None:
    assert peer_token.is_valid("key", TOKEN, DIGEST, NOW + peer_token.LIFETIME_SECONDS - 1)


@pytest.mark.parametrize(
    ("key", "token", "digest", "later"),
    [
        ("key", TOKEN, DIGEST, peer_token.LIFETIME_SECONDS),
        ("key", TOKEN, "sha256:" + "b" * 64, 0),
        ("another key", TOKEN, DIGEST, 0),
        ("key", TOKEN.replace("1", "2", 1), DIGEST, 0),
        ("key", TOKEN[:-1], DIGEST, 0),
        ("key", TOKEN.partition(".")[0], DIGEST, 0),
        ("key", "", DIGEST, 0),
        ("key", "\xe9.\xe9", DIGEST, 0),
    ],
)
def test_opens_nothing_else(key: str, token: str, digest: str, later: float) -> None:
    assert not peer_token.is_valid(key, token, digest, NOW + later)
