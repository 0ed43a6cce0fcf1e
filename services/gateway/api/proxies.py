"""Who really calls, when proxies of ours stand between: their word counts, a stranger's does not."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

MOST_HOPS: Final = 20
_PAIR: Final = re.compile(r'\s*(for|proto|host)\s*=\s*(?:"([^"]*)"|([^\s;,"]+))\s*', re.IGNORECASE)
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}(?::\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::\d{1,5})?")


@dataclass(frozen=True)
class Hop:
    """What one proxy says of who asked it; empty where it says nothing."""

    address: str
    scheme: str = ""
    host: str = ""


class Proxies:
    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network) for network in networks)
        self._is_trusted = lru_cache(maxsize=1024)(self._find)

    def see_through(self, scope: Scope) -> None:
        """Give ``scope`` the client, the scheme and the Host of the request as the first of our proxies got it."""
        if not self._networks or scope.get("client") is None or not self._is_trusted(scope["client"][0]):
            return
        client = self._client(Headers(scope=scope))
        if client is None:
            return
        scope["client"] = (client.address, 0)
        scope["scheme"] = client.scheme or scope["scheme"]
        if client.host:
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            scope["headers"] = [*others, (b"host", client.host.encode())]

    def _client(self, headers: Headers) -> Hop | None:
        """A proxy adds one of the headers and passes on the other as the client made it: both must tell the same."""
        standard = self._outermost(_standard_hops(headers))
        usual = self._outermost(_usual_hops(headers))
        if standard is None or usual is None or usual == standard:
            return standard or usual
        return Hop(usual.address) if usual.address == standard.address else None

    def _outermost(self, hops: list[Hop]) -> Hop | None:
        """From the right, the first that is none of our proxies; what stands left of it is its own invention."""
        found = None
        for hop in reversed(hops[-MOST_HOPS:]):
            address = _address(hop.address)
            if address is None:
                break
            found = Hop(address, hop.scheme if hop.scheme in ("http", "https") else "", _host(hop.host))
            if not self._is_trusted(address):
                break
        return found

    def _find(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._networks)


def _standard_hops(headers: Headers) -> list[Hop]:
    """RFC 7239: ``Forwarded: for=192.0.2.1;proto=https;host=api.example, for=...``"""
    hops = []
    for element in ",".join(headers.getlist("forwarded")).split(","):
        pairs = {name.lower(): quoted or plain for name, quoted, plain in _PAIR.findall(element)}
        if "for" in pairs:
            hops.append(Hop(pairs["for"], pairs.get("proto", "").lower(), pairs.get("host", "")))
    return hops


def _usual_hops(headers: Headers) -> list[Hop]:
    """``X-Forwarded-For`` with one address a proxy; scheme and host are what the last proxy says."""
    addresses = [part.strip() for part in ",".join(headers.getlist("x-forwarded-for")).split(",") if part.strip()]
    scheme, host = (headers.get(f"x-forwarded-{name}", "").rpartition(",")[2].strip() for name in ("proto", "host"))
    return [Hop(address, scheme.lower(), host) for address in addresses]


def _address(text: str) -> str | None:
    """Without a port and brackets; None for what is no address (``unknown``, ``_hidden``)."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _host(text: str) -> str:
    return text if _HOST.fullmatch(text) else ""
