"""Two organizations on one server with slots, one of them offering ten times what the other does; in ticks."""

import random
from dataclasses import dataclass
from typing import Final

from services.scheduler.accounts import INPUT_COST, OUTPUT_COST
from tests.fixtures.sharing import MODEL, Server
from tests.load.scenarios import jain, percentile

TICKS_PER_SECOND: Final = 50
SLOTS: Final = 16
MOST_PROMPT: Final = 400
PROMPT_PER_TICK: Final = 20
"""Tokens of a prompt that are read in the time of one that is generated."""

MOST_ANSWER: Final = 100
MEAN_ANSWER: Final = (10 + MOST_ANSWER) / 2
MEAN_PROMPT: Final = (10 + MOST_PROMPT) / 2
CAPACITY: Final = SLOTS / (MEAN_ANSWER + MEAN_PROMPT / PROMPT_PER_TICK)
"""Requests per tick."""

WINDOW: Final = 30 * TICKS_PER_SECOND
SECONDS: Final = 600
BOUND: Final = 2 * max(INPUT_COST * MOST_PROMPT, OUTPUT_COST * SLOTS * (MOST_PROMPT + MOST_ANSWER))


@dataclass
class Run:
    served: dict[str, list[float]]
    """At each tick, since the beginning."""

    first_token: dict[str, list[float]]
    """Seconds from arrival."""

    wait_errors: list[tuple[float, float]]
    """(what was estimated when it came, what it was less that), in seconds."""

    def gap(self) -> float:
        """The greatest difference of service in any window."""
        apart = [small - big for small, big in zip(self.served["small"], self.served["big"], strict=True)]
        return max(abs(later - earlier) for earlier, later in zip(apart, apart[WINDOW:], strict=False))

    def total(self) -> float:
        return sum(series[-1] for series in self.served.values())


def run(ticks: int, small: float, big: float, *, fair: bool = True) -> Run:
    """Loads are shares of the server's capacity. Not fair: all are one flow, first in, first out."""
    chance, server = random.Random(7), Server(SLOTS, prompt_per_tick=PROMPT_PER_TICK, charge_every=TICKS_PER_SECOND)
    offers = {"small": small * CAPACITY, "big": big * CAPACITY}
    due = dict.fromkeys(offers, 0.0)
    served: dict[str, list[float]] = {name: [] for name in offers}
    estimates: dict[str, float | None] = {}
    for _ in range(ticks):
        for name, rate in offers.items():
            while rate and due[name] <= server.tick:
                due[name] += chance.expovariate(rate)
                prompt, answer = chance.randint(10, MOST_PROMPT), chance.randint(10, MOST_ANSWER)
                request_id = server.send(name, prompt, answer, organization_id=name if fair else "all")
                ahead = server.waiting.position(request_id) - 1
                estimates[request_id] = server.throughput.wait_seconds(MODEL.runner, ahead, server.tick)
        server.step()
        for name, series in served.items():
            series.append(server.served[name])
    first = {name: [ticks / TICKS_PER_SECOND for ticks in server.first_tokens[name]] for name in offers}
    errors = [
        (estimate / TICKS_PER_SECOND, (server.waited[request_id] - estimate) / TICKS_PER_SECOND)
        for request_id, estimate in estimates.items()
        if estimate is not None and server.waited.get(request_id)
    ]
    return Run(served, first, errors)


def _quantiles(run: Run) -> str:
    errors = [-error for _, error in run.wait_errors]
    return ", ".join(f"p{percent} {percentile(errors, percent):+.2f} s" for percent in (5, 50, 95))


def report(share: float = 1.0) -> str:
    ticks = int(SECONDS * TICKS_PER_SECOND * share)
    both, fifo = run(ticks, 0.8, 8), run(ticks, 0.8, 8, fair=False)
    alone, beside = run(ticks, 0.2, 0), run(ticks, 0.2, 2)
    in_order = run(ticks, 0.2, 2, fair=False)
    served = [series[-1] for series in both.served.values()]
    p95 = {
        name: percentile(one.first_token["small"], 95)
        for name, one in (("alone", alone), ("fair", beside), ("fifo", in_order))
    }
    return "\n".join(
        (
            f"{SLOTS} slots, {ticks / TICKS_PER_SECOND:.0f} s of {TICKS_PER_SECOND} tokens/s; "
            "big offers ten times small's load.",
            f"Both want more than half (80 % and 800 % of the capacity): greatest gap in a window of 30 s "
            f"{both.gap():.0f} (bound {BOUND:.0f}; first in, first out {fifo.gap():.0f}), Jain {jain(served):.3f}, "
            f"service {both.total() / fifo.total():.1%} of first in, first out.",
            f"Small wants less (20 % and 200 %): its first token p95 {p95['fair']:.2f} s, alone {p95['alone']:.2f} s "
            f"({p95['fair'] / p95['alone']:.2f} times), first in, first out {p95['fifo']:.2f} s; it was served "
            f"{beside.served['small'][-1] / alone.served['small'][-1]:.1%} of what it gets alone.",
            f"Estimates of the wait, then, less what it was: {_quantiles(beside)}; first in, first out: "
            f"{_quantiles(in_order)}.",
        )
    )
