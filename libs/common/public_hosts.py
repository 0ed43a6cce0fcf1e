"""Which machines we talk to when users say to whom: those on public addresses, and what ``allowed`` adds.

Names come from users, and redirects from whoever they named, so the suite's own network must not be reachable by them.
The check is made on the very addresses that a connection is made to: a name that resolves to another one a moment
later gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from libs.common.errors import Forbidden, ServiceError

Address = IPv4Address | IPv6Address

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
"""All that is given out for public use. Python calls more global: networks have machines and translators there."""

EVERY_HOST = "*"

LOOKUPS_AT_ONCE: Final = 16
_lookups = ThreadPoolExecutor(LOOKUPS_AT_ONCE, "look up a name")


class AllowedHosts:
    """``allowed``: host names, addresses, networks, or ``*``; ``setting``: where they come from, for who is refused."""

    def __init__(self, allowed: Iterable[str] = (), setting: str = "") -> None:
        self._setting = setting
        self._names = {entry.lower() for entry in allowed}
        self._networks = [network for entry in self._names if (network := _network(entry)) is not None]

    def permit(self, host: str, address: str) -> bool:
        """``address``: one that ``host`` resolves to."""
        if EVERY_HOST in self._names or host.lower() in self._names:
            return True
        target = _target(ipaddress.ip_address(address))
        return _is_public(target) or any(target in network for network in self._networks)

    def check_literal(self, host: str) -> None:
        """For what no resolver sees, because aiohttp takes it for an address.

        Raises ``Forbidden``, also for old ways to write one (``127.1``), which systems understand though we do not.
        """
        if ":" not in host and not host.replace(".", "").isdigit():
            return
        try:
            permitted = self.permit(host, host)
        except ValueError:
            permitted = False
        if not permitted:
            raise self.refusal(host)

    def refusal(self, host: str) -> Forbidden:
        more = f", and {self._setting} does not allow it" if self._setting else ""
        return Forbidden(f"{host} is not on a public address{more}")


class SystemResolver(AbstractResolver):
    """The system's, in threads of its own: users name hosts whose name servers never answer, and the threads in which
    everything else is done must not wait for these.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=flags)
            for kind, _, protocol, _, address in await asyncio.get_running_loop().run_in_executor(_lookups, ask)
        ]

    async def close(self) -> None: ...


class CheckedResolver(AbstractResolver):
    """Raises ``Forbidden`` for a name none of whose addresses is permitted, ``ServiceError`` for what is no name."""

    def __init__(self, hosts: AllowedHosts, resolver: AbstractResolver) -> None:
        self._hosts = hosts
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            found = await self._resolver.resolve(host, port, family)
        except UnicodeError:  # an empty or too long part, as in a..b
            raise ServiceError("this is not the name of a host") from None
        permitted = [result for result in found if self._hosts.permit(host, result["host"])]
        if not permitted:
            raise self._hosts.refusal(host)
        return permitted

    async def close(self) -> None:
        await self._resolver.close()


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in PUBLIC_IPV6:
        return False
    return address.is_global and not address.is_multicast


def _target(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
