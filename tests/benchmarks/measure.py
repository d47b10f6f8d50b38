"""How times are taken, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

Clock = Callable[[], float]


def interleaved(
    cases: Mapping[str, Callable[[], object]], *, calls: int, rounds: int = 15, clock: Clock = perf_counter
) -> dict[str, list[float]]:
    """Return, for each case, the microseconds a call that each round took.

    A round runs every case once, so that what else the machine does falls upon all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for _ in range(rounds):
        for name, case in cases.items():
            start = clock()
            for _ in range(calls):
                case()
            times[name].append((clock() - start) / calls * 1e6)
    return times


def print_table(title: str, unit: str, times: Mapping[str, list[float]], *, floor: str) -> None:
    """Print the median and the spread of each case, and how it compares with ``floor``."""
    print(f"\n{title}")
    print(f"{'':34}{unit + ', median':>18}{'spread':>18}{'more':>10}{'ratio':>8}")
    base = median(times[floor])
    for name, values in times.items():
        middle = median(values)
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"{name:34}{middle:18.2f}{spread:>18}{middle - base:10.2f}{middle / base:8.2f}")
