"""What holds for the tests of all tiers."""

import pytest

# What tests share makes assertions, too, which are to show their values.
pytest.register_assert_rewrite("tests.integration", "tests.interop", "tests.support", "tests.system")
