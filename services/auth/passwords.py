"""Password hashes: bcrypt, always in a thread, since one costs a good part of a second; and what a good password is."""

import asyncio
import base64
import hashlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar

import bcrypt

from libs.common.errors import InvalidRequest, Overloaded

R = TypeVar("R")

LONGEST: Final = 256
FEWEST_DIFFERENT_CHARACTERS: Final = 5
MOST_WAITING: Final = 20
"""A few seconds' worth, and fewer than the bus gives us at once: the others are told at once, and do not time out."""

POLITENESS: Final = 10

_COMMON: Final = """
0123456789 1234567890 12345678910 123456789a 1q2w3e4r5t 1q2w3e4r5t6y 1qaz2wsx3edc abcd123456 abcdefghij
administrator adminadmin basketball changeme123 changeme1234 chocolate1 correcthorsebatterystaple football123
helloworld iloveyou123 letmein123 letmein1234 liverpool1 manchester michelle123 ollamamax1 ollamamax123
p@ssw0rd123 password01 password10 password11 password12 password123 password1234 password12345 password2024
password2025 password2026 passw0rd123 passwordpassword princess123 q1w2e3r4t5 q1w2e3r4t5y6 qazwsxedcrfv
qwerty1234 qwerty12345 qwerty123456 qwertyuiop qwertyuiop123 starwars123 sunshine123 superman123 welcome123
welcome1234 zaq12wsxcde3 zxcvbnm123
"""
COMMON: Final = frozenset(_COMMON.split())
"""Those of the well-known lists that are long enough for us."""


class Passwords:
    """Makes and checks hashes. ``nobodys`` is a hash that no password matches, as costly to check as a real one.

    Its threads give way to everything else on the machine: a flood of logins is not to slow the streams.
    """

    def __init__(self, rounds: int, at_once: int, nobodys: str) -> None:
        self.rounds = rounds
        self.nobodys = nobodys
        self._threads = ThreadPoolExecutor(at_once, "passwords", initializer=_give_way)
        self._turns = asyncio.Semaphore(at_once)
        self._waiting = 0

    @classmethod
    async def open(cls, rounds: int, at_once: int = 2) -> "Passwords":
        unmatchable = bcrypt.gensalt()
        return cls(rounds, at_once, await asyncio.to_thread(_hash, unmatchable, rounds))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """For whoever lets strangers make or check hashes. Raises ``Overloaded`` if too many wait already."""
        if self._waiting >= MOST_WAITING:
            raise Overloaded("too many are logging in; please try again", retry_after=5)
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    async def hash(self, password: str) -> str:
        return await self._in_thread(_hash, _digest(password), self.rounds)

    async def matches(self, password: str, hashed: str | None) -> bool:
        """False for no hash at all, after the time that a wrong password takes."""
        return await self._in_thread(bcrypt.checkpw, _digest(password), (hashed or self.nobodys).encode())

    def is_outdated(self, hashed: str) -> bool:
        """Made with other rounds than now."""
        return not hashed.startswith(f"$2b${self.rounds:02}$")

    async def _in_thread(self, function: Callable[..., R], *arguments: object) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def require_good(password: str, email: str, shortest: int) -> None:
    """Raises ``InvalidRequest`` that says what is wrong."""
    if not shortest <= len(password) <= LONGEST:
        raise InvalidRequest(f"the password must have {shortest} to {LONGEST} characters")
    plain = password.strip().lower()
    if plain in (email, email.partition("@")[0]):
        raise InvalidRequest("the password must not be the email address")
    if plain in COMMON or len(set(plain)) < FEWEST_DIFFERENT_CHARACTERS:
        raise InvalidRequest("the password is too easy to guess")


def _give_way() -> None:
    """On Linux, threads have priorities of their own. Where a sandbox does not let them, they are as all others."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), POLITENESS)


def _hash(secret: bytes, rounds: int) -> str:
    return bcrypt.hashpw(secret, bcrypt.gensalt(rounds)).decode()


def _digest(password: str) -> bytes:
    """bcrypt refuses more than 72 bytes and stops at a zero byte; a digest in base64 has neither."""
    return base64.b64encode(hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest())
