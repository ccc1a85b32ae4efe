"""The page on operating is true: every command on it runs, and does what the page says it does."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from canary_documents import to_document
from dev_stack.stack import SERVICE_KEY, STABLE, Stack
from support.admin import Admin, admin_of
from support.observed import shown_at
from support.redis_server import free_port
from support.stack import PATIENCE_S, ROOT, client_of, declare, running_stack, share

PAGE = (ROOT / "docs" / "operating.md").read_text()
HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENDS_S = 540.0
USERS = [f"user-{number}" for number in range(200)]


def sections() -> dict[str, str]:
    """By heading, the commands of a section."""
    _, *parts = HEADING.split(PAGE)
    texts = zip(parts[::2], parts[1::2], strict=True)
    return {title: "".join(BLOCK.findall(text)) for title, text in texts if BLOCK.search(text)}


SECTIONS = sections()
WALK = ["One machine, as processes", "The plugin server", "Back up", "Restore", "Tokens", "Stop"]
# What takes everybody away from the canary, and what else is done to a release.
PLAYBOOKS = {
    "Give everybody stable": "rolled-back",
    "The canary's error rate is too high": "rolled-back",
    "The canary is slow": "rolled-back",
    "Data is inconsistent": "rolled-back",
}
RUNBOOKS = [title for title in SECTIONS if title not in (*WALK, *PLAYBOOKS)]


def bash(script: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a script as a person would type it, in a folder; what it printed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-x", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path, "HOME": str(folder), "PYTHONPATH": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        ends = threading.Timer(ENDS_S, lambda: end(process.pid))
        ends.start()
        try:
            printed, _ = process.communicate()
        finally:
            ends.cancel()
            end(process.pid)
    assert process.returncode == 0, printed
    return printed


def end(group: int) -> None:
    """End what is left of a script."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A folder that has what a checkout has, under a short name: sockets stand below it."""
    folder = Path(tempfile.mkdtemp(prefix="op"))
    for name in ("deploy", "examples", "kong"):
        (folder / name).symlink_to(ROOT / name)
    yield folder
    shutil.rmtree(folder)


def test_the_walk_on_one_machine_works_from_the_first_token_to_the_end(checkout: Path) -> None:
    script = "".join(SECTIONS[title] for title in SECTIONS if title in WALK)
    for known in ("6380", "8000", "1229", "1230"):
        script = re.sub(rf"(127\.0\.0\.1:|--port |-p ){known}\b", rf"\g<1>{free_port()}", script)
    decision, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    printed = bash(
        script,
        checkout,
        {
            "CANARY_LISTEN": decision,
            "CANARY_ADMIN_LISTEN": admin,
            "CANARY_METRICS_LISTEN": "127.0.0.1:0",
            "CANARY_PLUGIN_DECISION_SERVICE": decision,
            "CANARY_PLUGIN_METRICS_LISTEN": "127.0.0.1:0",
            "CANARY_CONTROLLER_ADMIN": admin,
            "CANARY_CONTROLLER_METRICS_LISTEN": "127.0.0.1:0",
            "CANARYCTL_ADDRESS": admin,
        },
    )
    assert "holds the lease" in (checkout / ".run/operating/controller.log").read_text(), printed


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running_stack(controller=(), declare=declared) as running:
        yield running


def declared(addresses: Mapping[str, str]) -> dict[str, Any]:
    """The gateway's file as the page asks for it: its baseline gives nobody the canary."""
    document = declare(addresses)
    for plugin in document["plugins"]:
        if plugin.get("service") is None and plugin.get("route") is None:
            plugin["config"]["percentage"] = 0
    return document


@pytest.fixture
def admin(stack: Stack) -> Iterator[Admin]:
    """Of a service with a release that gives half of the users the canary."""
    with admin_of(stack.admin_address) as found:
        found.end()
        found.release(50, salt="operating")
        yield found


def run(title: str, stack: Stack, folder: Path) -> str:
    """Run a section against a stack, in whose place the page has the usual addresses."""
    script = SECTIONS[title].replace("redis-cli -p 6380", f"redis-cli -s {stack.redis_socket}")
    for usual, here in (
        ("127.0.0.1:8000", stack.gateway.address),
        ("127.0.0.1:9464", stack.metrics_address),
        ("127.0.0.1:9465", shown_at(stack.plugin.output())),
        ("127.0.0.1:9466", shown_at(stack.controller.output())),
    ):
        script = script.replace(usual, here)
    return bash(
        script, folder, {"CANARYCTL_ADDRESS": stack.admin_address, "CANARYCTL_ACTOR": "on-duty"}
    )


@pytest.mark.parametrize("title", PLAYBOOKS)
async def test_a_playbook_takes_everybody_away_from_the_canary(
    stack: Stack, admin: Admin, title: str, tmp_path: Path
) -> None:
    async with client_of(stack) as client:
        async with asyncio.timeout(PATIENCE_S):
            while share(await client.versions(USERS)) < 0.3:
                pass
        run(title, stack, tmp_path)
        async with asyncio.timeout(PATIENCE_S):
            while set((await client.versions(USERS)).values()) != {STABLE}:
                pass
    release = to_document(admin("GetPolicy", service_key=SERVICE_KEY).policy.release)
    assert release["status"] == PLAYBOOKS[title]


@pytest.mark.parametrize("title", RUNBOOKS)
def test_the_commands_of_a_runbook_work(
    stack: Stack, admin: Admin, title: str, tmp_path: Path
) -> None:
    revision = admin("GetPolicy", service_key=SERVICE_KEY).policy.revision
    run(title, stack, tmp_path)
    assert admin("GetPolicy", service_key=SERVICE_KEY).policy.revision == revision


def test_every_command_of_the_page_is_in_a_section_that_is_run() -> None:
    assert SECTIONS.keys() == {*WALK, *PLAYBOOKS, *RUNBOOKS}
    assert len(BLOCK.findall(PAGE)) == PAGE.count("```sh\n")
    assert RUNBOOKS
