"""kong/wait-for-plugin-server: Kong's image starts when the plugin server takes connections."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
WAIT = ROOT / "kong/wait-for-plugin-server"
CONNECTS = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


@pytest.fixture
def at(tmp_path: Path) -> Path:
    """Where a plugin server listened once: the socket is there, and nobody behind it."""
    path = tmp_path / "plugin.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    return path


def environment(at: Path, looks: Path, **more: str) -> dict[str, str]:
    """Whose python3 leaves a mark each time that it is asked to look."""
    folder = looks.parent / "bin"
    folder.mkdir()
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\necho >>"{looks}"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "KONG_PLUGINSERVER_CANARY_SOCKET": str(at)} | more


async def test_kong_starts_when_the_plugin_server_listens_and_not_before(
    at: Path, tmp_path: Path
) -> None:
    looks = tmp_path / "looks"
    # More patient than the test; and the command fails where it is run too early.
    chosen = environment(at, looks, PLUGIN_SERVER_WAIT_S="600")
    command = [str(WAIT), sys.executable, "-c", CONNECTS, str(at)]
    waiting = await asyncio.create_subprocess_exec(*command, env=chosen)
    try:
        await until(looks.exists, "a first look")
        os.unlink(at)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(at))
            server.listen()
            await until(lambda: waiting.returncode is not None, "Kong's start")
    finally:
        if waiting.returncode is None:
            waiting.kill()
            await waiting.wait()
    assert waiting.returncode == 0


def test_a_plugin_server_that_never_comes_does_not_keep_kong_away(at: Path, tmp_path: Path) -> None:
    chosen = environment(at, tmp_path / "looks", PLUGIN_SERVER_WAIT_S="0")
    command = [str(WAIT), "echo", "started", "anyway"]
    done = subprocess.run(command, env=chosen, capture_output=True, text=True, check=True)
    assert done.stdout == "started anyway\n"
    assert f"nobody listens on {at}; Kong starts without" in done.stderr


def test_the_image_waits_and_then_does_what_its_base_does() -> None:
    recipe = (ROOT / "kong/Dockerfile").read_text()
    final = recipe.rpartition("\nFROM ")[2]
    (command,) = json.loads(re.findall(r"^ENTRYPOINT (.+)$", final, re.MULTILINE)[-1])
    assert f"COPY kong/{command} /usr/local/bin/" in final
    assert WAIT.name == command
    assert os.access(WAIT, os.X_OK)
    # A recipe that has an ENTRYPOINT of its own loses its base's CMD.
    (then,) = re.findall(r"^CMD (.+)$", final, re.MULTILINE)
    assert json.loads(then) == ["kong", "docker-start"]


def test_it_waits_for_the_socket_that_kong_is_configured_for() -> None:
    (socket_,) = re.findall(
        r"^pluginserver_canary_socket = (\S+)$", (ROOT / "kong/kong.conf").read_text(), re.MULTILINE
    )
    assert f"${{KONG_PLUGINSERVER_CANARY_SOCKET:-{socket_}}}" in WAIT.read_text()
