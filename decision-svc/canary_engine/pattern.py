"""How patterns are compiled wherever one is: by RE2, in time that grows with the text alone."""

from __future__ import annotations

import re2


def pattern_options() -> re2.Options:
    """How patterns are compiled: quietly, and with bounded memory."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    return options
