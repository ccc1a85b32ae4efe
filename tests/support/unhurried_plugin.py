"""The plugin server with more patience than users would have, for machines that are busy.

It waits long for a service that is slow to say what the policies are.

python -m support.unhurried_plugin --socket PATH ...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from canary_plugin import __main__, supervisor

NAME = "support.unhurried_plugin"
WARM_UP_S = 30.0


def run(name: str) -> None:
    """Be the plugin server or a worker of it, whose workers are started as this module."""

    def worker_command(arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", name, *arguments, "--worker"]

    supervisor.worker_command = worker_command
    __main__.WARM_UP_S = __main__.REPLACEMENT_WARM_UP_S = WARM_UP_S
    __main__.main()


if __name__ == "__main__":
    run(NAME)
