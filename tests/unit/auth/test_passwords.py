import asyncio

import pytest

from libs.common.errors import InvalidRequest, Overloaded
from services.auth.passwords import MOST_WAITING, Passwords, require_good
from tests.fixtures.buses import eventually


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


@pytest.mark.parametrize(
    "password",
    [
        "",
        "ninechars",
        "x1!" * 86,
        "password1234",
        "PASSWORD1234",
        " qwertyuiop ",
        "abababababab",
        "ada@b.example",
        "ada.lovelace",
    ],
)
def test_passwords_that_are_too_easy(password: str) -> None:
    email = "ada.lovelace@b" if password == "ada.lovelace" else "ada@b.example"
    with pytest.raises(InvalidRequest, match="password"):
        require_good(password, email, 10)


@pytest.mark.parametrize("password", ["correct horse", "ten chars!", "пароль-паролей", "x1!yZ" * 50, " spaces count "])
def test_passwords_that_will_do(password: str) -> None:
    require_good(password, "ada@b.example", 10)


async def test_a_hash_of_other_rounds_is_outdated(passwords: Passwords) -> None:
    assert not passwords.is_outdated(await passwords.hash("secret"))
    assert (await Passwords.open(rounds=5)).is_outdated(await passwords.hash("secret"))


async def test_so_many_have_their_turn_and_so_many_wait() -> None:
    passwords = await Passwords.open(rounds=4, at_once=2)
    inside, leave = 0, asyncio.Event()

    async def take_a_turn() -> None:
        nonlocal inside
        async with passwords.turn():
            inside += 1
            await leave.wait()

    tasks = [asyncio.create_task(take_a_turn()) for _ in range(2 + MOST_WAITING)]
    await eventually(lambda: inside == 2)
    with pytest.raises(Overloaded):
        await take_a_turn()
    tasks[-1].cancel()
    leave.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert inside == 2 + MOST_WAITING - 1
    await take_a_turn()
