"""Plugin servers in processes of their own: ours, and kong-pdk's with an empty plugin."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from dev_stack.processes import Process, wait_until

from harness.service import BASELINES

EMPTY = "kong-pdk gevent, empty plugin"
EMPTY_PLUGIN = BASELINES / "empty_plugin"
PDK_SERVER = str(Path(sys.executable).with_name("kong-python-pluginserver"))


@cache
def takes(option: str) -> bool:
    """Whether our plugin server has the option."""
    command = [sys.executable, "-m", "canary_plugin", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return option in done.stdout


def outcomes_socket(path: Path) -> Path:
    """Where the plugin server at ``path`` hears of outcomes."""
    return path.with_suffix(".outcomes")


@contextmanager
def plugin_server(
    run_dir: Path, service_address: str, decider: str, outcomes: str = "off"
) -> Iterator[Path]:
    """Our plugin server; its socket."""
    path = run_dir / f"{decider}-{outcomes}.sock"
    command = [sys.executable, "-m", "canary_plugin", "--socket", str(path)]
    command += ["--decision-service", service_address]
    if takes("--decider"):
        command += ["--decider", decider]
    if takes("--outcomes"):
        command += ["--outcomes", outcomes, "--outcomes-socket", str(outcomes_socket(path))]
    log = path.with_suffix(".log")
    process = Process(f"plugin server ({decider})", command, log, ready_word="ready socket=")
    process.start()
    try:
        yield path
    finally:
        process.stop()


@contextmanager
def empty_plugin_server(run_dir: Path) -> Iterator[Path]:
    """kong-pdk's gevent server with an empty plugin; its socket."""
    path = run_dir / "empty.sock"
    command = [PDK_SERVER, "--gevent", "-d", str(EMPTY_PLUGIN)]
    command += ["-p", str(run_dir), "--socket-name", path.name]
    process = Process("kong-pdk", command, run_dir / "kong-pdk.log", ready_word="")
    process.spawn()
    try:
        wait_until(path.exists, 15, "kong-pdk's socket")
        yield path
    finally:
        process.stop()
