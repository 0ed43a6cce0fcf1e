"""Password hashes: bcrypt, always in a thread, since one costs a good part of a second."""

import asyncio
import base64
import hashlib
from dataclasses import dataclass

import bcrypt


@dataclass(frozen=True)
class Passwords:
    """Makes and checks hashes. ``nobodys`` is a hash that no password matches, as costly to check as a real one."""

    rounds: int
    nobodys: str

    @classmethod
    async def open(cls, rounds: int) -> "Passwords":
        unmatchable = bcrypt.gensalt()
        return cls(rounds, await asyncio.to_thread(_hash, unmatchable, rounds))

    async def hash(self, password: str) -> str:
        return await asyncio.to_thread(_hash, _digest(password), self.rounds)

    async def matches(self, password: str, hashed: str | None) -> bool:
        """False for no hash at all, after the time that a wrong password takes."""
        return await asyncio.to_thread(bcrypt.checkpw, _digest(password), (hashed or self.nobodys).encode())


def _hash(secret: bytes, rounds: int) -> str:
    return bcrypt.hashpw(secret, bcrypt.gensalt(rounds)).decode()


def _digest(password: str) -> bytes:
    """bcrypt refuses more than 72 bytes and stops at a zero byte; a digest in base64 has neither."""
    return base64.b64encode(hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest())
