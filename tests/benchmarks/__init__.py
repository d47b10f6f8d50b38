"""Benchmarks: what the library costs, as ratios to the least that the same work can cost, and to its peers.

Each module but those that others use runs alone (``python -m tests.benchmarks.in_process``), and all but the
plot by ``make bench``. None of them is a test: their numbers are those of the machine and the day, their
ratios less so.
"""

import sys
from pathlib import Path

# The code that `make` has generated: for the benchmarks, and for the servers of the integration tests.
_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE / "gen"), str(_HERE.parent / "gen")]
