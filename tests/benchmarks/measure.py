"""How times are taken, and how they are shown."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median, quantiles
from time import perf_counter
from typing import NamedTuple, TypeVar

_CORES = sorted(os.sched_getaffinity(0))

_KeyT = TypeVar("_KeyT")
_ResultT = TypeVar("_ResultT")

Clock = Callable[[], float]
Values = Sequence[float]


def interleaved(
    cases: Mapping[str, Callable[[], object]], *, calls: int, rounds: int = 21, clock: Clock = perf_counter
) -> dict[str, list[float]]:
    """Return, for each case, the microseconds a call that each round took: see `in_rounds`."""

    def time(case: Callable[[], object]) -> float:
        gc.collect()  # what the case before has left
        start = clock()
        for _ in range(calls):
            case()
        return (clock() - start) / calls * 1e6

    for case in cases.values():
        case()
    return in_rounds({name: partial(time, case) for name, case in cases.items()}, rounds)


def in_rounds(cases: Mapping[_KeyT, Callable[[], _ResultT]], rounds: int) -> dict[_KeyT, list[_ResultT]]:
    """Return, for each case, what it returned in each round.

    A round runs every case once, each beginning with another, so that what else the machine does falls upon
    all of them.
    """
    results: dict[_KeyT, list[_ResultT]] = {key: [] for key in cases}
    order = deque(cases.items())
    for _ in range(rounds):
        for key, case in order:
            results[key].append(case())
        order.rotate()
    return results


@contextmanager
def on_core(index: int | None) -> Iterator[None]:
    """Keep this thread, and the processes that it starts within, on one core; on any, for None.

    Where threads of one interpreter, or a client and its server, change between cores, much of the time is
    that of waking a core up, and how much changes from minute to minute.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if index is None else {_CORES[index % len(_CORES)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Row(NamedTuple):
    """A line of a table: what was measured, and what it is compared with."""

    name: str
    values: Values
    floor: Values | None = None
    """Those of the least that the same work can cost; None for such a least itself."""


def against(floor: str, values: Mapping[str, Values]) -> list[Row]:
    """Return a row for each of ``values``, compared with those named ``floor``."""
    return [
        Row(name, measured, None if name == floor else values[floor]) for name, measured in values.items()
    ]


def print_table(title: str, unit: str, rows: Sequence[Row], *, is_rate: bool = False) -> None:
    """Print the median and the spread of each row, and how it compares with its floor.

    The difference and the ratio are the medians of those of the rounds; behind them is where the middle half
    of the ratios lies. Of a rate, more is better: it is shown as a share of the floor's.
    """
    width = max(34, *(len(row.name) + 2 for row in rows))
    difference = "" if is_rate else "more"
    print(f"\n{title}")
    print(
        f"{'':{width}}{unit + ', median':>18}{'spread':>20}{difference:>10}{'ratio':>8}{'half of them':>16}"
    )
    for row in rows:
        middle = median(row.values)
        spread = f"{_number(min(row.values))} to {_number(max(row.values))}"
        line = f"{row.name:{width}}{_number(middle):>18}{spread:>20}"
        if row.floor is not None:
            pairs = list(zip(row.values, row.floor, strict=True))
            more = "" if is_rate else _number(median(value - base for value, base in pairs))
            ratios = [value / base for value, base in pairs]
            lower, ratio, upper = quantiles(ratios, n=4)
            line += f"{more:>10}{ratio:8.2f}{f'{lower:.2f} to {upper:.2f}':>16}"
        print(line)


def _number(value: float) -> str:
    """Write a number with three digits that count."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"
