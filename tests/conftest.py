"""What holds for the tests of all tiers."""

import gc
import signal
from collections.abc import Iterator

import pytest

# What tests share makes assertions, too, which are to show their values.
pytest.register_assert_rewrite("tests.integration", "tests.interop", "tests.support", "tests.system")

# A shell has what it runs in the background ignore Ctrl-C, and so would the programs that tests end by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def without_gc() -> Iterator[None]:
    """Let no reference cycle be collected, unless the test does it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
