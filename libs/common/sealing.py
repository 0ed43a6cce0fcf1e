"""Values that a copy of the database must not tell: AES-256-GCM under keys from the environment.

Sealed is ``version (1) | key id (8) | nonce (12) | ciphertext and tag``. Where a value belongs is authenticated with
it: moved to another row or column, it does not open. The newest key seals, all of the ring open. Nonces are random, so
one key is good for some billion values.
"""

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass
from typing import Annotated, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import AfterValidator, SecretStr

VERSION: Final = b"\x01"
KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
NONCE_BYTES: Final = 12


class CannotOpenError(Exception):
    """Sealed with a key that is not in the ring, meant for another place, or changed."""


@dataclass(frozen=True)
class Place:
    """The one cell of the database a sealed value belongs to. ``row``: the row's id as text."""

    table: str
    column: str
    row: str

    def associated(self) -> bytes:
        return "\0".join((self.table, self.column, self.row)).encode()


class Ring:
    """Keys of 32 bytes, newest first."""

    def __init__(self, newest: bytes, *older: bytes) -> None:
        self._keys = {_key_id(key): AESGCM(key) for key in (newest, *older)}
        self._newest = _key_id(newest)

    @classmethod
    def of(cls, newest: SecretStr, older: SecretStr) -> "Ring":
        """Of the settings of a service: see ``SealingKey`` and ``SealingKeys``."""
        return cls(_decoded(newest.get_secret_value()), *map(_decoded, _listed(older)))

    @property
    def mark(self) -> bytes:
        """What everything begins with that the newest key has sealed; what begins otherwise is to be re-sealed."""
        return VERSION + self._newest

    def seal(self, plain: bytes, place: Place) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return self.mark + nonce + self._keys[self._newest].encrypt(nonce, plain, place.associated())

    def open(self, sealed: bytes, place: Place) -> bytes:
        """Raises ``CannotOpenError``."""
        version, key_id, rest = sealed[:1], sealed[1 : 1 + KEY_ID_BYTES], sealed[1 + KEY_ID_BYTES :]
        key = self._keys.get(key_id)
        if version != VERSION or key is None:
            return self._open_unmarked(sealed, place)
        return _decrypt(key, rest, place.associated())

    def _open_unmarked(self, sealed: bytes, place: Place) -> bytes:
        """Before there was a ring, signing keys were sealed without a mark, for the id of their row alone."""
        for key in self._keys.values():
            try:
                return _decrypt(key, sealed, place.row.encode())
            except CannotOpenError:
                continue
        raise CannotOpenError


def _decrypt(key: AESGCM, sealed: bytes, associated: bytes) -> bytes:
    try:
        return key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], associated)
    except (InvalidTag, ValueError):  # a value shorter than a nonce is a ValueError
        raise CannotOpenError from None


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"sealing key\0" + key).digest()[:KEY_ID_BYTES]


def _decoded(text: str) -> bytes:
    """Raises ``ValueError``, whose words do not repeat the key."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("must be 32 random bytes in base64, as from: openssl rand -base64 32")
    return key


def _listed(keys: SecretStr) -> list[str]:
    return [key.strip() for key in keys.get_secret_value().split(",") if key.strip()]


def _is_a_key(secret: SecretStr) -> SecretStr:
    _decoded(secret.get_secret_value())
    return secret


def _are_keys(secrets_: SecretStr) -> SecretStr:
    for key in _listed(secrets_):
        _decoded(key)
    return secrets_


SealingKey = Annotated[SecretStr, AfterValidator(_is_a_key)]
"""A setting: 32 bytes in base64."""

SealingKeys = Annotated[SecretStr, AfterValidator(_are_keys)]
"""A setting: any number of them, separated by commas."""
