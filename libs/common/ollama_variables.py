"""Ollama's environment variables, read as Ollama reads them, in the words of our settings.

Each function takes the text of a variable without its spaces and quotes, and raises ``ValueError`` if it is no value.
"""

from typing import Final

from libs.common.go_duration import parse_duration

NEVER_SECONDS: Final = 10 * 365 * 86400.0
DEFAULT_PORTS: Final = {"": 11434, "http": 80, "https": 443}


def unquoted(text: str) -> str:
    return text.strip().strip("\"'")


def seconds(text: str) -> float:
    """A duration, or whole seconds."""
    try:
        return parse_duration(text)
    except ValueError:
        return float(int(text))


def timeout_seconds(text: str) -> float:
    """Zero and less mean that there is none."""
    return given if (given := seconds(text)) > 0 else NEVER_SECONDS


def flag(text: str) -> bool:
    """What is no boolean counts as true: somebody has set it."""
    return text not in {"0", "f", "F", "false", "FALSE", "False"}


def host(text: str) -> str:
    """Of ``[scheme://]host[:port][/path]``."""
    return _split(text)[0]


def port(text: str) -> int:
    return _split(text)[1]


def _split(text: str) -> tuple[str, int]:
    """An address without brackets may be IPv6; a port that is none is the default one; no host at all is every one."""
    scheme, separator, rest = text.rpartition("://")
    default = DEFAULT_PORTS.get(scheme if separator else "", DEFAULT_PORTS[""])
    address = rest.partition("/")[0]
    name, colon, number = address.rpartition(":")
    if not colon or "]" in number or (":" in name and not name.startswith("[")):
        return address.strip("[]") or "127.0.0.1", default
    valid = number.isascii() and number.isdecimal() and int(number) < 65536
    return name.strip("[]") or "0.0.0.0", int(number) if valid else default
