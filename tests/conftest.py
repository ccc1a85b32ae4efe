"""What the suite does is the same on every machine and in every order.

What tests start reads compiled modules, also where Python is told to write none: the suite starts
hundreds of processes, and compiling the product takes half of such a start.
"""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The same examples each time, however long one takes. --hypothesis-profile=default looks for new
# ones.
settings.load_profile("ci")


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Let no example depend on what the worker did before.

    Hypothesis also tries the constants of our modules, of those that happen to be loaded.
    """
    if settings.default.derandomize:
        providers._get_local_constants = lambda: providers._local_constants
