"""What tests start reads compiled modules, and no test fails because the machine is slow.

The suite starts hundreds of processes, and compiling the product takes half of such a start; so
modules are compiled also where Python is told to write none.
"""

from __future__ import annotations

import os
import sys

from hypothesis import HealthCheck, settings

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Where CI is set, Hypothesis does so by itself.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("patient", PATIENT)
if "CI" not in os.environ:
    settings.load_profile("patient")
