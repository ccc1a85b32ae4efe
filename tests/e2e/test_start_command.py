"""Kong starts the plugin server itself, and they end together. Only a real Kong can."""

from __future__ import annotations

import os
import re
import shlex
import signal
from pathlib import Path

from dev_stack.gateways import RealKong
from dev_stack.processes import wait_until
from dev_stack.stack import CANARY, Stack
from support.stack import client_of, running_stack

TESTER = {"x-canary-test": "true"}


def _ready(stack: Stack) -> list[int]:
    """Pid of every worker that got ready, in that order."""
    return [
        int(pid) for pid in re.findall(r"ready socket=\S+ worker=(\d+)", _log(stack).read_text())
    ]


def _log(stack: Stack) -> Path:
    return stack.plan.run_dir / "started-by-kong.log"


def _is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def _wait_for_workers(stack: Stack, number: int) -> None:
    wait_until(lambda: len(_ready(stack)) >= number, 30, f"worker {number}")


async def test_kong_starts_restarts_reloads_and_ends_the_plugin_server() -> None:
    with running_stack() as stack:
        kong = stack.gateway
        assert isinstance(kong, RealKong)
        kong.stop()
        stack.plugin.stop()
        command = shlex.join([*stack.plugin.command, "--exit-with-parent"])
        _log(stack).touch()
        # Kong logs what a plugin server says as "info", which it is told to leave out.
        kong.start_plugin_server_by(f"{command} 2>>{_log(stack)}")
        kong.start()
        _wait_for_workers(stack, 1)
        async with client_of(stack) as client:
            assert await client.version(TESTER) == CANARY
            os.kill(_ready(stack)[0], signal.SIGKILL)
            _wait_for_workers(stack, 2)
            assert await client.version(TESTER) == CANARY
            kong.reload()
            _wait_for_workers(stack, 3)
            wait_until(lambda: _is_gone(_ready(stack)[1]), 30, "the end of the old worker")
            assert await client.version(TESTER) == CANARY
        assert stack.plugin_socket.exists()
        kong.kill()
        wait_until(lambda: _is_gone(_ready(stack)[2]), 30, "the end of the plugin server")
        # The supervisor outlives its worker by a moment.
        wait_until(lambda: not stack.plugin_socket.exists(), 30, "the end of the socket")
