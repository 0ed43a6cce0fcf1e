import base64

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from libs.common.sealing import CannotOpenError, Place, Ring

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
CELL = Place("user_totp", "sealed_secret", "42")


def test_what_was_sealed_opens() -> None:
    assert Ring(NEW).open(Ring(NEW).seal(b"secret", CELL), CELL) == b"secret"
    assert Ring(NEW).open(Ring(NEW).seal(b"", CELL), CELL) == b""


def test_what_was_sealed_long_ago_opens() -> None:
    sealed = bytes.fromhex("010a171cdf4753ea4d000102030405060708090a0b2f373ed52f41d200bf2587dde1456c1dcc78f6217ae5")
    assert Ring(NEW).open(sealed, CELL) == b"secret"


def test_the_format_is_as_documented() -> None:
    sealed = Ring(NEW).seal(b"secret", CELL)
    assert sealed[:9] == Ring(NEW).mark == b"\x01" + sealed[1:9]
    opened = AESGCM(NEW).decrypt(sealed[9:21], sealed[21:], b"user_totp\0sealed_secret\x0042")
    assert opened == b"secret"


def test_every_value_is_sealed_differently() -> None:
    assert len({Ring(NEW).seal(b"secret", CELL) for _ in range(100)}) == 100


@pytest.mark.parametrize("place", [Place("users", "sealed_secret", "42"), Place("user_totp", "other", "42")])
def test_a_value_opens_in_no_other_column(place: Place) -> None:
    with pytest.raises(CannotOpenError):
        Ring(NEW).open(Ring(NEW).seal(b"secret", CELL), place)


def test_a_value_opens_in_no_other_row() -> None:
    with pytest.raises(CannotOpenError):
        Ring(NEW).open(Ring(NEW).seal(b"secret", CELL), Place("user_totp", "sealed_secret", "43"))


def test_one_changed_bit_anywhere_is_found() -> None:
    sealed = Ring(NEW).seal(b"secret", CELL)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(CannotOpenError):
            Ring(NEW).open(bytes(changed), CELL)


@pytest.mark.parametrize("length", [0, 1, 8, 9, 20, 21, 36])
def test_a_value_cut_short_does_not_open(length: int) -> None:
    with pytest.raises(CannotOpenError):
        Ring(NEW).open(Ring(NEW).seal(b"secret", CELL)[:length], CELL)


def test_old_keys_open_and_the_newest_seals() -> None:
    sealed = Ring(OLD).seal(b"secret", CELL)
    ring = Ring(NEW, OLD)
    assert ring.open(sealed, CELL) == b"secret"
    assert not sealed.startswith(ring.mark)
    again = ring.seal(ring.open(sealed, CELL), CELL)
    assert again.startswith(ring.mark)
    assert Ring(NEW).open(again, CELL) == b"secret"
    with pytest.raises(CannotOpenError):
        Ring(NEW).open(sealed, CELL)


def test_values_from_before_there_was_a_ring_open() -> None:
    nonce = b"n" * 12
    sealed = nonce + AESGCM(OLD).encrypt(nonce, b"private key", b"key-id")
    assert Ring(NEW, OLD).open(sealed, Place("signing_keys", "sealed_private_key", "key-id")) == b"private key"
    with pytest.raises(CannotOpenError):
        Ring(NEW, OLD).open(sealed, Place("signing_keys", "sealed_private_key", "another"))


def test_settings_make_a_ring() -> None:
    new, old = (SecretStr(base64.b64encode(key).decode()) for key in (NEW, OLD))
    assert Ring.of(new, SecretStr("")).mark == Ring(NEW).mark
    both = Ring.of(new, SecretStr(f" {old.get_secret_value()}, {new.get_secret_value()},"))
    assert both.open(Ring(OLD).seal(b"secret", CELL), CELL) == b"secret"
