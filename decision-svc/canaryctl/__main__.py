"""Where the command line starts: nothing slow or noisy is loaded before Ctrl-C is minded."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run canaryctl and leave with its exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would log beside our own errors
    try:
        from canaryctl.app import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
