"""Offline: why a request got its worker, and whether the rules of today would decide the same.

``python -m services.scheduler.explain < request.json`` reads the answer of ``GET /api/v1/inference/requests/{id}``, one
of its attempts, or a decision alone. It needs nothing else: a decision has in it all that the rules were told. Exit
code 1: something is decided differently; 2: there is no decision in what was read.
"""

import sys
from typing import Any

import msgspec
from pydantic import ValidationError

from libs.common.contracts.scheduler.decisions import Candidate, Decision
from services.scheduler.decisions import decide_again


def find(document: Any) -> list[Decision]:
    """The decisions in what was read. Raises ``ValidationError``."""
    if not isinstance(document, dict):
        return []
    if "attempts" in document:
        return [decision for attempt in document["attempts"] for decision in find(attempt)]
    if "decision" in document:
        return find(document["decision"])
    return [Decision.model_validate(document)]


def tell(decision: Decision) -> str:
    """One line a candidate, the best first."""
    ranked = sorted(decision.candidates, key=_rank, reverse=True)
    lines = [_head(decision), *(f"  {_line(candidate, decision)}" for candidate in ranked)]
    differences = decide_again(decision)
    if differences:
        return "\n".join([*lines, "decided again, it differs:", *(f"  {each}" for each in differences)])
    return "\n".join([*lines, "decided again: the same"])


def _head(decision: Decision) -> str:
    head = f"{decision.chosen or 'nobody'} of {decision.considered} workers after {decision.waited_seconds:.3f} s"
    if decision.position is not None:
        head += f", number {decision.position} at arrival"
    counters = ", ".join(f"{name} {count:g}" for name, count in decision.counters.items())
    return f"{head}; served before: {counters}" if counters else head


def _rank(candidate: Candidate) -> tuple[bool, float]:
    return candidate.refused_by is None, sum(candidate.scores.values())


def _line(candidate: Candidate, decision: Decision) -> str:
    mark = "*" if candidate.worker_id == decision.chosen else " "
    name = f"{mark} {candidate.worker_id} on {candidate.node or 'an unknown node'}"
    if candidate.refused_by is not None:
        return f"{name}: refused by {candidate.refused_by} {candidate.facts}"
    scores = " ".join(f"{rule}={score:+.3g}" for rule, score in candidate.scores.items())
    return f"{name}: {sum(candidate.scores.values()):.3g} = {scores or 'nothing'}"


def main(text: str) -> int:
    try:
        decisions = find(msgspec.json.decode(text))
    except (msgspec.DecodeError, ValidationError) as error:
        sys.stderr.write(f"this is no decision: {error}\n")
        return 2
    if not decisions:
        sys.stderr.write("there is no decision in it\n")
        return 2
    sys.stdout.write("\n\n".join(map(tell, decisions)) + "\n")
    return 1 if any(map(decide_again, decisions)) else 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.read()))
