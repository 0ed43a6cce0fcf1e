import pytest

from services.auth.passwords import Passwords


@pytest.fixture(scope="module")
async def passwords() -> Passwords:
    return await Passwords.open(rounds=4)


@pytest.mark.parametrize("password", ["secret", "", "ü" * 500, "zero\0byte", "\ud800"])
async def test_any_text_is_a_password(passwords: Passwords, password: str) -> None:
    hashed = await passwords.hash(password)
    assert hashed.startswith("$2b$04$")
    assert await passwords.matches(password, hashed)
    assert not await passwords.matches(password + "x", hashed)


async def test_every_character_counts(passwords: Passwords) -> None:
    """bcrypt alone looks at 72 bytes."""
    hashed = await passwords.hash("a" * 72 + "b")
    assert not await passwords.matches("a" * 72 + "c", hashed)


async def test_nobodys_hash_is_as_costly_and_never_matches(passwords: Passwords) -> None:
    assert passwords.nobodys.startswith("$2b$04$")
    assert not await passwords.matches("", None)
