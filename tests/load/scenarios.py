"""What is asked, and what is kept of the answers. Every scenario is bounded in time and in requests."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.load.client import Load, Sample, a_session, closed_loop, open_loop
from tests.load.cpu import CpuMeter

AFTERMATH_SECONDS = 0.4
"""Books are written a moment after the answer; their CPU counts too."""

WARM_UP_REQUESTS = 16


@dataclass(frozen=True)
class Target:
    """A way through the hops. ``models``: one that answers at once and one that makes 50 tokens a second."""

    name: str
    url: str
    model: str
    paced_model: str
    meter: CpuMeter
    headers: Mapping[str, str] = field(default_factory=dict)
    login: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Credentials of a user, where there are users."""


@dataclass(frozen=True)
class Scenario:
    name: str
    tokens: int
    seconds: float
    clients: int = 0
    """0: an open loop."""

    paced: bool = False
    most: int = 5000


ONE_TOKEN = Scenario("one token, 32 clients", tokens=1, seconds=10, clients=32)
ROUND_TRIP = Scenario("one token, one client", tokens=1, seconds=5, clients=1, most=500)
BURST = Scenario("64 tokens at once, 32 clients", tokens=64, seconds=10, clients=32)
PACED = Scenario("64 tokens 20 ms apart, 200 clients", tokens=64, seconds=10, clients=200, paced=True)
OPEN = Scenario("one token, open load", tokens=1, seconds=8)
SCENARIOS = (ONE_TOKEN, ROUND_TRIP, BURST, PACED, OPEN)


@dataclass(frozen=True)
class Measurement:
    target: str
    scenario: Scenario
    expected: str
    samples: list[Sample]
    seconds: float
    cpu: dict[str, float]
    """Seconds by process."""

    @property
    def intact(self) -> int:
        return sum(sample.text == self.expected for sample in self.samples)

    @property
    def rate(self) -> float:
        """Whole answers a second."""
        return self.intact / self.seconds

    @property
    def cpu_ms_per_request(self) -> float:
        return sum(self.cpu.values()) * 1e3 / max(1, self.intact)

    def first_token_ms(self, percent: float) -> float:
        return percentile([sample.first_token for sample in self.samples], percent) * 1e3

    def total_ms(self, percent: float) -> float:
        return percentile([sample.total for sample in self.samples], percent) * 1e3


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def jain(shares: Sequence[float]) -> float:
    """1: all the same; 1/n: one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


async def measure(target: Target, scenario: Scenario, open_rate: float) -> Measurement:
    """Raises ``RuntimeError`` if the target does not answer even unhurried requests with the right number of tokens."""
    async with a_session(target.headers) as session:
        load = Load(session, target.url, target.paced_model if scenario.paced else target.model, scenario.tokens)
        expected = await _warm_up(load)
        began, before = time.perf_counter(), target.meter.read()
        if scenario.clients:
            samples = await closed_loop(load, scenario.clients, scenario.most, scenario.seconds)
        else:
            samples = await open_loop(load, open_rate, scenario.seconds)
        seconds = time.perf_counter() - began
        await asyncio.sleep(AFTERMATH_SECONDS)
        after = target.meter.read()
    cpu = {name: after[name] - before[name] for name in after}
    return Measurement(target.name, scenario, expected, samples, seconds, cpu)


async def _warm_up(load: Load) -> str:
    """The answer that all others must equal."""
    answers = {sample.text or "" for sample in await closed_loop(load, WARM_UP_REQUESTS, WARM_UP_REQUESTS, 15)}
    expected = answers.pop()
    if answers or len(expected.split()) != load.tokens:
        raise RuntimeError(f"{load.url} does not answer {load.model} with {load.tokens} tokens")
    return expected
