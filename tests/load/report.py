"""The measurements as tables, padded so that they read well in a terminal and in Markdown alike."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.load.logins import LoginLoad
from tests.load.scenarios import ONE_TOKEN, PACED, ROUND_TRIP, Measurement, Scenario
from tests.load.verifying import Verifying

Cells = Sequence[str]


def render(measurements: Sequence[Measurement], about: str, *more: str) -> str:
    parts = (about, results(measurements), ratios(measurements), breakdown(measurements), *more)
    return "\n\n".join(parts)


def logins(load: LoginLoad) -> str:
    """Streams alone and while people log in, and what the second is of the first."""
    header = (load.alone.scenario.name, "logins/s", "first token ms p50/p95", "total ms p50/p95", "intact")
    rows = [_streams("alone", load.alone, 0), _streams("while clients log in", load.during_logins, load.logins)]
    ratios = [
        f"{value(load.during_logins, percent) / value(load.alone, percent):.2f}"
        for value in (Measurement.first_token_ms, Measurement.total_ms)
        for percent in (50, 95)
    ]
    first, total = " / ".join(ratios[:2]), " / ".join(ratios[2:])
    return table(header, [*rows, ("ratio", "", first, total, "")])


def _streams(title: str, measured: Measurement, count: int) -> Cells:
    return (
        title,
        f"{count / measured.seconds:.1f}",
        " / ".join(f"{measured.first_token_ms(percent):.1f}" for percent in (50, 95)),
        " / ".join(f"{measured.total_ms(percent):.1f}" for percent in (50, 95)),
        f"{measured.intact / len(measured.samples):.1%}",
    )


def verifying(cost: Verifying) -> str:
    row = ("CPU-us", f"{cost.key_us:.1f}", f"{cost.token_us:.1f}", "200")
    return table(("a warm gateway verifies", "an API key", "an access token", "aim"), [row])


def results(measurements: Sequence[Measurement]) -> str:
    header = (
        "scenario", "target", "requests/s", "first token ms p50/p95/p99", "total ms p50/p95/p99",
        "CPU-ms/request", "CPU-us/further token", "intact",
    )  # fmt: skip
    return table(header, [_result(measured, further_token_us(measured, measurements)) for measured in measurements])


def _result(measured: Measurement, token_us: float | None) -> Cells:
    return (
        measured.scenario.name,
        measured.target,
        f"{measured.rate:.0f}",
        " / ".join(f"{measured.first_token_ms(percent):.1f}" for percent in (50, 95, 99)),
        " / ".join(f"{measured.total_ms(percent):.1f}" for percent in (50, 95, 99)),
        f"{measured.cpu_ms_per_request:.2f}",
        f"{token_us:.0f}" if token_us is not None else "",
        f"{measured.intact / len(measured.samples):.1%}",
    )


def further_token_us(measured: Measurement, all_of_them: Iterable[Measurement]) -> float | None:
    """What each token after the first costs: the request itself is what the same target's one-token request costs."""
    further = measured.scenario.tokens - 1
    if not further:
        return None
    request_ms = _find(all_of_them, measured.target, ONE_TOKEN).cpu_ms_per_request
    return (measured.cpu_ms_per_request - request_ms) * 1e3 / further


def _find(measurements: Iterable[Measurement], target: str, scenario: Scenario) -> Measurement:
    return next(m for m in measurements if (m.target, m.scenario.name) == (target, scenario.name))


def ratios(measurements: Sequence[Measurement]) -> str:
    """Everything against the first target, which is the floor."""
    targets = list(dict.fromkeys(measured.target for measured in measurements))

    def row(title: str, scenario: Scenario, value: Callable[[Measurement], float | None], aim: str) -> Cells:
        floor, *others = (value(_find(measurements, target, scenario)) or math.nan for target in targets)
        return (f"{title}: {scenario.name}", *(f"{other / floor:.2f}" for other in others), aim)

    rows = [
        row("CPU per request", ONE_TOKEN, lambda m: m.cpu_ms_per_request, "2"),
        row("latency, median", ROUND_TRIP, lambda m: m.total_ms(50), "2"),
        row("CPU per further token", PACED, lambda m: further_token_us(m, measurements), "1.5"),
        row("CPU per request", PACED, lambda m: m.cpu_ms_per_request, ""),
    ]
    return table(("ratio to the bare hops", *targets[1:], "aim"), rows)


def breakdown(measurements: Iterable[Measurement]) -> str:
    """Where the CPU of a request goes."""
    chosen = [measured for measured in measurements if measured.scenario.name in (ONE_TOKEN.name, PACED.name)]
    names = list(dict.fromkeys(name for measured in chosen for name in measured.cpu))
    rows = []
    for measured in chosen:
        shares = [f"{measured.cpu.get(name, 0) * 1e3 / max(1, measured.intact):.2f}" for name in names]
        rows.append((measured.scenario.name, measured.target, *shares))
    return table(("CPU-ms/request", "target", *names), rows)


def table(header: Cells, rows: Sequence[Cells]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [_line(header, widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
    return "\n".join([*lines, *(_line(row, widths) for row in rows)])


def _line(cells: Cells, widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def write(path: Path, text: str, about: str = "bench") -> None:
    """Replace what is between the two markers of this name. Raises ``ValueError`` if the file has none."""
    begin_line, end_line = f"<!-- {about}: begin -->", f"<!-- {about}: end -->"
    before, begin, rest = path.read_text().partition(begin_line)
    _, end, after = rest.partition(end_line)
    if not (begin and end):
        raise ValueError(f"{path} has no lines '{begin_line}' and '{end_line}' to write between")
    path.write_text(f"{before}{begin_line}\n{text}\n{end_line}{after}")
