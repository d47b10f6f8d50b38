"""What holds for the tests of all tiers."""

import signal

import pytest

# What tests share makes assertions, too, which are to show their values.
pytest.register_assert_rewrite("tests.integration", "tests.interop", "tests.support", "tests.system")

# A shell has what it runs in the background ignore Ctrl-C, and so would the programs that tests end by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
