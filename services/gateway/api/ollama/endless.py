"""Schemas that no finite value matches, because a part that must be there contains itself.

llama.cpp's grammar compiler does not notice them and takes all the memory it can get.
"""

from collections.abc import Iterator
from typing import Any, Final

MOST_STEPS: Final = 20_000


class SchemaTooComplex(Exception):
    """Its references cannot be followed to the end in ``MOST_STEPS``, or not on our stack."""


def is_endless(schema: dict[str, Any]) -> bool:
    """Raises ``SchemaTooComplex``."""
    try:
        return not _Search(schema).ends(schema, frozenset({"#"}))
    except RecursionError:
        raise SchemaTooComplex from None


class _Search:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._steps = 0
        self._finite: set[str] = set()
        """References known to end, so that each is followed once."""

    def ends(self, node: Any, open_references: frozenset[str]) -> bool:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise SchemaTooComplex
        if not isinstance(node, dict):
            return True
        alternatives = [node[name] for name in ("anyOf", "oneOf") if isinstance(node.get(name), list) and node[name]]
        return (
            self._reference_ends(node.get("$ref"), open_references)
            and all(self.ends(part, open_references) for part in _required_parts(node))
            and all(any(self.ends(branch, open_references) for branch in branches) for branches in alternatives)
        )

    def _reference_ends(self, reference: Any, open_references: frozenset[str]) -> bool:
        if not isinstance(reference, str) or reference in self._finite:
            return True
        if reference in open_references:
            return False
        if not self.ends(self._target(reference), open_references | {reference}):
            return False
        self._finite.add(reference)
        return True

    def _target(self, reference: str) -> Any:
        """What a ``#/...`` pointer points to; None, which ends, for anything the engine will refuse."""
        node: Any = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            node = _child(node, part.replace("~1", "/").replace("~0", "~"))
        return node


def _child(node: Any, name: str) -> Any:
    if isinstance(node, list):
        index = int(name) if name.isdecimal() and len(name) < 10 else len(node)
        return node[index] if index < len(node) else None
    return node.get(name) if isinstance(node, dict) else None


def _required_parts(node: dict[str, Any]) -> Iterator[Any]:
    properties = node.get("properties")
    if isinstance(properties, dict) and isinstance(node.get("required"), list):
        yield from (properties[name] for name in node["required"] if isinstance(name, str) and name in properties)
    for name in ("allOf", "prefixItems"):
        if isinstance(node.get(name), list):
            yield from node[name]
    least = node.get("minItems")
    if isinstance(least, int) and least > 0:
        yield node.get("items")
