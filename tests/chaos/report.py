"""What one fault did, and all of them as a table."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.chaos.faults import Fault
from tests.chaos.questions import Question
from tests.chaos.verdict import History, Verdict, judge
from tests.load import report
from tests.load.scenarios import percentile

DIVERGED: Final = "replay_diverged"
MOST_SHOWN: Final = 5


@dataclass(frozen=True)
class Outcome:
    """``struck``: when the fault began. ``troubles``: what it left behind, or could not mend."""

    fault: Fault
    histories: Sequence[History]
    struck: float
    ended: float
    troubles: Sequence[str]

    @property
    def verdicts(self) -> Counter[Verdict]:
        return Counter(judge(history) for history in self.histories)

    @property
    def failures(self) -> list[str]:
        """A line for each stream that is not as it must be."""
        return [self._told(history) for history in self.histories if not self._is_right(history)]

    @property
    def passed(self) -> bool:
        return not self.troubles and not self.failures

    def _is_right(self, history: History) -> bool:
        found, real = judge(history), history.question.units is None
        allowed = history.end in self.fault.errors or (real and history.end == DIVERGED)
        return found is Verdict.INTACT or (found is Verdict.ERROR and allowed)

    def _told(self, history: History) -> str:
        what = f"{history.question.kind} {history.request_id or 'without an id'}: {judge(history)}"
        when = f"from {history.began - self.struck:+.1f} s to {history.ended - self.struck:+.1f} s after the fault"
        seen = f"{len(history.pieces)} pieces to seq {history.seq}, read on {history.resumed} times"
        return f"{what}, end '{history.end}', {seen}, {when}"

    def gaps(self, *, slow: bool) -> list[float]:
        """Median, 99th percentile and most, in seconds, of the longest time that the reader of a stream saw nothing.

        Of those that were running. ``slow``: those that are replayed, and those of a real model, which is loaded first.
        """
        histories = (history for history in self.histories if _is_slow(history.question) is slow)
        found = (history.gap(self.struck, self.ended) for history in histories)
        known = [gap for gap in found if not math.isnan(gap)]
        return [percentile(known, percent) for percent in (50, 99, 100)] if known else []


def explain(outcome: Outcome) -> str:
    """In a few lines: what was seen, and what was wrong."""
    failures = outcome.failures
    counts = ", ".join(f"{count} {verdict}" for verdict, count in outcome.verdicts.items())
    stalls = f"stall {_stalls(outcome, slow=False)} s, of replays and the real model {_stalls(outcome, slow=True)} s"
    said = f"{outcome.fault.name} {'passed' if outcome.passed else 'FAILED'}: {counts}; {stalls}"
    lines = [*failures[:MOST_SHOWN], *outcome.troubles[:MOST_SHOWN]]
    rest = len(failures) + len(outcome.troubles) - len(lines)
    more = [f"and {rest} more"] if rest else []
    return "\n  ".join([said, *lines, *more])


def _is_slow(question: Question) -> bool:
    return question.replayed or question.units is None


def _stalls(outcome: Outcome, *, slow: bool) -> str:
    return " / ".join(f"{gap:.2f}" for gap in outcome.gaps(slow=slow))


def render(outcomes: Sequence[Outcome], about: str) -> str:
    header = ("fault", "streams", *(str(verdict) for verdict in Verdict), "refused", "sent again", "read on",
              "stall s p50/p99/most", "of replays, real model", "left behind", "")  # fmt: skip
    return f"{about}\n\n{report.table(header, [_row(outcome) for outcome in outcomes])}"


def _row(outcome: Outcome) -> report.Cells:
    counts, histories = outcome.verdicts, outcome.histories
    return (
        outcome.fault.name,
        str(len(histories)),
        *(str(counts[verdict]) for verdict in Verdict),
        str(sum(history.refused for history in histories)),
        str(sum(history.sent_again for history in histories)),
        str(sum(history.resumed > 0 for history in histories)),
        _stalls(outcome, slow=False),
        _stalls(outcome, slow=True),
        str(len(outcome.troubles)),
        "passed" if outcome.passed else "FAILED",
    )


def write(path: Path, text: str) -> None:
    report.write(path, text, "chaos")
