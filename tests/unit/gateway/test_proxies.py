from typing import Any

import pytest

from services.gateway.api.proxies import Proxies

OURS = Proxies(["10.0.0.0/8", "::1/128"])
XFF, STANDARD = "x-forwarded-for", "forwarded"


def seen(peer: str = "10.0.0.1", **headers: str) -> tuple[str, str, str]:
    """Client, scheme and Host, as the request looks through our proxies."""
    raw = [(b"host", b"inside")] + [
        (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
    ]
    scope: dict[str, Any] = {"type": "http", "client": (peer, 1234), "scheme": "http", "headers": raw}
    OURS.see_through(scope)
    return scope["client"][0], scope["scheme"], dict(scope["headers"])[b"host"].decode()


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:5123", "192.0.2.1"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 192.0.2.1, 10.0.0.7, 10.0.0.8", "192.0.2.1"),
        ("10.0.0.9, 10.0.0.7", "10.0.0.9"),
        ("192.0.2.1, nonsense, 10.0.0.7", "10.0.0.7"),
        ("nonsense", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("6.6.6.6," + "10.0.0.7," * 50, "10.0.0.7"),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_no_proxy(forwarded: str, client: str) -> None:
    assert seen(x_forwarded_for=forwarded)[0] == client


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("for=192.0.2.1", ("192.0.2.1", "http", "inside")),
        ('for="[2001:db8::1]:4711";proto=https;host=api.example', ("2001:db8::1", "https", "api.example")),
        ("For=6.6.6.6;host=evil, for=192.0.2.1;proto=https, for=10.0.0.7", ("192.0.2.1", "https", "inside")),
        ("for=unknown", ("10.0.0.1", "http", "inside")),
        ('for=192.0.2.1;host="a/b";proto=gopher', ("192.0.2.1", "http", "inside")),
        ("proto=https", ("10.0.0.1", "http", "inside")),
    ],
)
def test_the_standard_header(forwarded: str, expected: tuple[str, str, str]) -> None:
    assert seen(forwarded=forwarded) == expected


def test_scheme_and_host_of_the_usual_headers_are_the_last_proxys() -> None:
    told = {
        "x_forwarded_for": "192.0.2.1",
        "x_forwarded_proto": "http, HTTPS",
        "x_forwarded_host": "evil, api.example:8443",
    }
    assert seen(**told) == ("192.0.2.1", "https", "api.example:8443")


@pytest.mark.parametrize("peer", ["192.0.2.7", "testclient"])
def test_nobody_else_is_believed(peer: str) -> None:
    assert seen(peer, x_forwarded_for="6.6.6.6", x_forwarded_proto="https", forwarded="for=6.6.6.6") == (
        peer,
        "http",
        "inside",
    )


def test_a_header_that_the_client_made_up_beside_the_proxys_own_does_not_count() -> None:
    assert seen(x_forwarded_for="192.0.2.1", forwarded="for=6.6.6.6")[0] == "10.0.0.1"
    assert seen(x_forwarded_for="192.0.2.1", forwarded="for=192.0.2.1")[0] == "192.0.2.1"


def test_scheme_and_host_beside_the_proxys_own_do_not_count_either() -> None:
    """A client knows its own address: it can make up the other header so that the addresses agree."""
    made_up = {"x_forwarded_for": "192.0.2.1", "x_forwarded_host": "evil", "x_forwarded_proto": "https"}
    assert seen(**made_up, forwarded="for=192.0.2.1;host=api.example;proto=http") == ("192.0.2.1", "http", "inside")
    assert seen(**made_up, forwarded="for=192.0.2.1;host=evil;proto=https") == ("192.0.2.1", "https", "evil")
