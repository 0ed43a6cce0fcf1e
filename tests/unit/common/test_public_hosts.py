import asyncio
import socket
import threading

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from libs.common.errors import Forbidden, ServiceError
from libs.common.public_hosts import LOOKUPS_AT_ONCE, AllowedHosts, CheckedResolver, SystemResolver
from tests.fixtures.buses import eventually

PUBLIC = ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
NOT_PUBLIC = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "64:ff9b::a9fe:a9fe"),
    *("fec0::1", "::127.0.0.1", "64:ff9b:1::a00:1", "::ffff:0:127.0.0.1", "5f00::1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_permitted(address: str) -> None:
    assert AllowedHosts().permit("host", address)
    AllowedHosts().check_literal(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_others_are_not(address: str) -> None:
    assert not AllowedHosts().permit("host", address)
    with pytest.raises(Forbidden, match="THE_SETTING"):
        AllowedHosts(setting="THE_SETTING").check_literal(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_all_are_where_everything_is_allowed(address: str) -> None:
    assert AllowedHosts(["*"]).permit("host", address)


def test_an_allowed_name_may_be_anywhere_and_others_may_not() -> None:
    hosts = AllowedHosts(["Registry.lan"])
    assert hosts.permit("registry.LAN", "10.0.0.1")
    assert not hosts.permit("other.lan", "10.0.0.1")


@pytest.mark.parametrize("address", ["10.0.0.1", "::ffff:10.0.0.1", "fd00::5", "64:ff9b::a00:1"])
def test_an_allowed_network(address: str) -> None:
    hosts = AllowedHosts(["10.0.0.0/8", "fd00::/8"])
    assert hosts.permit("any.lan", address)
    assert not hosts.permit("any.lan", "192.168.0.1")


def test_a_name_is_no_literal() -> None:
    AllowedHosts().check_literal("localhost")


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0177.0.0.1", "127.0.0.1.", "0", "8.8.8.8.8", "\uff11.1.1.1"])
def test_an_address_in_a_form_that_others_may_read_otherwise(host: str) -> None:
    with pytest.raises(Forbidden):
        AllowedHosts(["10.0.0.0/8"]).check_literal(host)
    AllowedHosts([host]).check_literal(host)


class Names(AbstractResolver):
    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None: ...


async def test_of_a_name_only_the_permitted_addresses_are_left() -> None:
    resolver = CheckedResolver(AllowedHosts(), Names(["127.0.0.1", "8.8.8.8"]))
    assert [found["host"] for found in await resolver.resolve("mixed.example", 443)] == ["8.8.8.8"]


async def test_a_name_without_a_permitted_address() -> None:
    resolver = CheckedResolver(AllowedHosts(["other.example"]), Names(["127.0.0.1"]))
    with pytest.raises(Forbidden, match=r"inside\.example"):
        await resolver.resolve("inside.example", 443)


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example"])
async def test_what_cannot_be_a_name_is_not_looked_up(host: str) -> None:
    with pytest.raises(ServiceError, match="not the name of a host"):
        await CheckedResolver(AllowedHosts(), SystemResolver()).resolve(host, 443)


async def test_names_that_nobody_answers_for_hold_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = threading.Semaphore(0), threading.Event()

    def never_in_time(*_args: object, **_named: object) -> list[object]:
        asked.release()
        answered.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", never_in_time)
    lookups = [asyncio.create_task(SystemResolver().resolve(f"{at}.example")) for at in range(100)]
    try:
        for _ in range(LOOKUPS_AT_ONCE):
            await eventually(lambda: asked.acquire(blocking=False))
        assert await asyncio.wait_for(asyncio.to_thread(str, 1), 30) == "1"
    finally:
        answered.set()
        await asyncio.gather(*lookups)


async def test_the_system_knows_this_machine() -> None:
    found = await SystemResolver().resolve("localhost", 80)
    assert ("127.0.0.1", 80) in [(result["host"], result["port"]) for result in found]
