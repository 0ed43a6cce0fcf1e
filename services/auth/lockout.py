"""Guessing passwords: after some failures one has to wait, each time twice as long.

Counted for the account that was named, whether there is one or not, and for the address it came from, which is allowed
more: a whole office may be behind it.
"""

import asyncio
import hashlib
import ipaddress
import math
from dataclasses import dataclass
from typing import Final

import structlog

from libs.common import actor, audit
from libs.common.database import EVERY_ORGANIZATION, Transaction
from libs.common.errors import RateLimited, Unavailable
from services.auth.context import Context
from services.auth.store import lockout as lockout_store

log = structlog.get_logger(__name__)

FIRST_WAIT_SECONDS: Final = 5.0
FORGOTTEN_AFTER_SECONDS: Final = 3600.0
PRUNE_SECONDS: Final = 600.0


@dataclass(frozen=True)
class Allowance:
    failures: int
    longest_wait_seconds: float

    def wait_seconds(self, failures: int) -> float:
        """After so many. Not before all allowed ones are used up."""
        doublings = min(failures - self.failures, 30)
        return min(FIRST_WAIT_SECONDS * 2**doublings, self.longest_wait_seconds) if doublings >= 0 else 0.0


ACCOUNT: Final = Allowance(failures=5, longest_wait_seconds=900.0)
NETWORK: Final = Allowance(failures=100, longest_wait_seconds=300.0)


async def check(tx: Transaction, email: str) -> None:
    """Raises ``RateLimited`` while this account or this caller's network has to wait. ``email``: normalised."""
    seconds = await lockout_store.seconds_locked(tx, list(_subjects(email)))
    if seconds > 0:
        wait = math.ceil(seconds)
        raise RateLimited(f"too many failed attempts; try again in {wait} seconds", retry_after=wait)


async def note_failure(ctx: Context, email: str, user_id: str = "", *, what: str = "login") -> None:
    """``user_id``: whose account it is, if there is one; the audit log knows users by that alone.

    What is no address is not told: it may be a password.
    """
    told = {"email": email} if "@" in email and not user_id else {}
    async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
        await audit.record(tx, "auth", f"{what}.failed", user_id, details=told)
        for subject, allowance in _subjects(email).items():
            failures = await lockout_store.count_failure(tx, subject, FORGOTTEN_AFTER_SECONDS)
            if seconds := allowance.wait_seconds(failures):
                await lockout_store.lock(tx, subject, seconds)
                details = {**told, "failures": failures, "seconds": seconds}
                await audit.record(tx, "auth", f"{what}.locked", user_id, details=details)


async def count_uninvited(tx: Transaction) -> None:
    """A registration that nobody asked for: one network makes as many as it may make failures."""
    if subject := _network_subject():
        made = await lockout_store.count_failure(tx, subject, FORGOTTEN_AFTER_SECONDS)
        if seconds := NETWORK.wait_seconds(made):
            await lockout_store.lock(tx, subject, seconds)


async def forgive(tx: Transaction, email: str) -> None:
    """Who knew the password starts afresh; the network does not, or a guesser's own account would clear it."""
    await lockout_store.forget(tx, _account(email))


async def prune(ctx: Context) -> None:
    """Background loop."""
    while True:
        await asyncio.sleep(PRUNE_SECONDS)
        try:
            async with ctx.db.transaction(EVERY_ORGANIZATION) as tx:
                await lockout_store.forget_all(tx, FORGOTTEN_AFTER_SECONDS)
        except Unavailable as error:
            log.warning("could not forget failed logins; will try again", reason=error.message)


def _subjects(email: str) -> dict[str, Allowance]:
    subjects = {_account(email): ACCOUNT}
    if network := _network_subject():
        subjects[network] = NETWORK
    return subjects


def _network_subject() -> str:
    """Empty if it is not known."""
    network = _network(actor.current().ip)
    return _digest("network", network) if network else ""


def _account(email: str) -> str:
    return _digest("account", email)


def _network(ip: str) -> str:
    """One subscriber has 2^64 addresses of IPv6. A socket for both shows those of IPv4 as ``::ffff:192.0.2.1``."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(address), 64), strict=False))
        address = address.ipv4_mapped
    return str(address)


def _digest(kind: str, name: str) -> str:
    return hashlib.sha256(f"{kind}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()
