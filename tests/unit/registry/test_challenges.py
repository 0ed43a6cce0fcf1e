import pytest

from libs.common.errors import ServiceError
from services.registry.transfer import challenges
from services.registry.transfer.challenges import Challenge


def test_a_challenge() -> None:
    header = 'Bearer realm="https://a.example/token",service="r.example",scope="repository:a/b:pull,push",error="x"'
    expected = {"service": "r.example", "scope": "repository:a/b:pull,push"}
    assert challenges.parse(header) == Challenge("https://a.example/token", expected)
    assert challenges.parse('  bearer   realm="/token"') == Challenge("/token", {})


@pytest.mark.parametrize("header", ["", 'Basic realm="x"', "Bearer", 'Bearer service="x"', 'Bearer realm=""'])
def test_what_is_none(header: str) -> None:
    assert challenges.parse(header) is None


@pytest.mark.parametrize("answer", [b'{"token": "abc"}', b'{"access_token": "abc", "expires_in": 60}'])
def test_a_token(answer: bytes) -> None:
    assert challenges.token(answer) == "abc"


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b"nonsense", b'{"token": 1}', b'{"token": "a\\r\\nX-Evil: 1"}', b'{"token": "a b"}', b"\xff"],
)
def test_what_is_no_token(answer: bytes) -> None:
    with pytest.raises(ServiceError, match="gave no token"):
        challenges.token(answer)
