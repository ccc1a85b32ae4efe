"""What tests start reads compiled modules, also where Python is told to write none.

The suite starts hundreds of processes, and compiling the product takes half of such a start.
"""

from __future__ import annotations

import os
import sys

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
