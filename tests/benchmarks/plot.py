"""A plot of throughput and latency by concurrency: ``docs/performance.svg``, from ``docs/performance.csv``.

``python -m tests.benchmarks.plot`` measures and draws, and with ``--draw`` draws what was measured before. It
needs ``apt-get install nghttp2-client``.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from tests.benchmarks import grpc_peer
from tests.benchmarks.measure import in_rounds, on_core
from tests.benchmarks.throughput import check_programs, h2load, http1_servers

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_DATA = _DOCS / "performance.csv"
_PLOT = _DOCS / "performance.svg"

_THREADS = 8
_CONNECTIONS = (1, 2, 4, 8, 16, 32)
_GRPC = "grpcio"


class Style(NamedTuple):
    """How a server is shown."""

    label: str
    color: str
    marker: str


# Colors that the color-blind tell apart, by Okabe and Ito.
_STYLES = {
    "bare function": Style("bare function, HTTP/1.1", "#555555", "s"),
    "connect-sync": Style("connect-sync, HTTP/1.1", "#0072b2", "o"),
    "connectrpc": Style("connectrpc, HTTP/1.1", "#d55e00", "^"),
    _GRPC: Style("grpcio, HTTP/2", "#009e73", "D"),
}


class Point(NamedTuple):
    """What a server does under load: a line of the data.

    It is that of the round in which the server did the most: what else the machine does only slows it down.
    """

    server: str
    connections: int
    requests_per_second: float
    median_ms: float
    p99_ms: float


def measure(seconds: int, rounds: int) -> list[Point]:
    """Load each server by each number of connections."""
    with http1_servers(_THREADS, 0) as servers, on_core(0), grpc_peer.serving(_THREADS) as port:
        generators = {name: partial(h2load, *server, is_http1=True) for name, server in servers.items()}
        generators[_GRPC] = partial(h2load, port, is_grpc=True)
        cases = {
            (name, connections): partial(load, connections=connections, seconds=seconds, core=1)
            for connections in _CONNECTIONS
            for name, load in generators.items()
        }
        loads = in_rounds(cases, rounds)
    return [
        Point(name, connections, *(round(value, 3) for value in max(of_rounds)))
        for (name, connections), of_rounds in sorted(loads.items())
    ]


def save(points: Sequence[Point]) -> None:
    """Write the data."""
    with _DATA.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Point._fields)
        writer.writerows(points)


def read() -> list[Point]:
    """Read the data."""
    with _DATA.open(newline="") as file:
        _, *rows = csv.reader(file)
    return [Point(server, int(connections), *map(float, rest)) for server, connections, *rest in rows]


def draw(points: Sequence[Point]) -> Figure:
    """Draw two panels: throughput and latency over the number of connections."""
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    throughput, latency = figure.subplots(1, 2)
    for name, style in _STYLES.items():
        own = [point for point in points if point.server == name]
        connections = [point.connections for point in own]
        look = {"color": style.color, "marker": style.marker, "markersize": 4.5, "linewidth": 1.6}
        throughput.plot(connections, [point.requests_per_second for point in own], label=style.label, **look)
        latency.plot(connections, [point.median_ms for point in own], **look)
        latency.plot(connections, [point.p99_ms for point in own], linestyle="--", alpha=0.7, **look)
    throughput.set_title("Throughput, requests/s")
    throughput.set_ylim(bottom=0)
    throughput.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    latency.set_title("Latency, ms")
    latency.set_yscale("log")
    latency.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    latency.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    latency.yaxis.set_minor_locator(NullLocator())
    latency.legend(
        [Line2D([], [], color="black"), Line2D([], [], color="black", linestyle="--")],
        ["median", "99th percentile"],
        frameon=False,
    )
    for panel in (throughput, latency):
        _style(panel)
    figure.legend(loc="outside lower center", ncols=len(_STYLES), frameon=False)
    return figure


def _style(panel: Axes) -> None:
    panel.set_xlabel("connections")
    panel.set_xscale("log", base=2)
    panel.set_xticks(_CONNECTIONS, [str(number) for number in _CONNECTIONS])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Measure, unless told not to, and draw."""
    parser = argparse.ArgumentParser(description="Plot throughput and latency by concurrency.")
    parser.add_argument("--draw", action="store_true", help="draw what was measured before")
    parser.add_argument("--seconds", type=int, default=1, help="of each load")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    if not arguments.draw:
        check_programs("h2load")
        save(measure(arguments.seconds, arguments.rounds))
    # The same data make the same file.
    with mpl.rc_context({"svg.hashsalt": "performance"}):
        draw(read()).savefig(_PLOT, metadata={"Creator": None, "Date": None})


if __name__ == "__main__":
    main()
