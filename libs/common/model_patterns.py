"""Patterns of model names, as in the shell, in any case. Pure."""

from collections.abc import Iterable
from fnmatch import fnmatchcase


def matches(pattern: str, model: str) -> bool:
    """A pattern or name without a tag also means the latest."""
    name = model.lower().removesuffix(":latest")
    names = (name,) if ":" in name.rpartition("/")[2] else (name, f"{name}:latest")
    return any(fnmatchcase(each, pattern.lower()) for each in names)


def match_all(groups: Iterable[Iterable[str]], model: str) -> bool:
    """``groups``: ``Identity.models``, one pattern of each must match; without any, all models do."""
    return all(any(matches(pattern, model) for pattern in group) for group in groups)
