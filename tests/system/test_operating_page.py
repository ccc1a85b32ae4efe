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
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from canary_documents import to_document
from dev_stack.demo import get
from dev_stack.processes import wait_until
from dev_stack.stack import CANARY, SERVICE_KEY, STABLE, Stack
from support.admin import Admin, admin_of
from support.load import until
from support.observed import shown_at
from support.redis_server import free_port
from support.stack import PATIENCE_S, ROOT, Client, client_of, declare, running_stack

PAGE = (ROOT / "docs" / "operating.md").read_text()
HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENDS_S = 540.0
USERS = [f"user-{number}" for number in range(60)]
TESTER = {"x-canary-test": "true"}


def texts() -> dict[str, str]:
    """By heading, what a section says."""
    _, *parts = HEADING.split(PAGE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


TEXTS = texts()
SECTIONS = {
    title: "".join(BLOCK.findall(text)) for title, text in TEXTS.items() if BLOCK.search(text)
}
"""By heading, the commands of a section."""
WALK = ["One machine, as processes", "The plugin server", "Back up", "Restore", "Tokens", "Stop"]
PLAYBOOKS = [
    "Give everybody stable",
    "The canary's error rate is too high",
    "The canary is slow",
    "Data is inconsistent",
]
"""What takes everybody away from the canary, and leaves the release halted."""
TOO_LATE, END, AGAIN = "When the release has ended already", "End the release", "Release again"
RUNBOOKS = [title for title in SECTIONS if title not in (*WALK, *PLAYBOOKS, TOO_LATE, END, AGAIN)]


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
    """With the gateway's file as it is shipped: its baseline gives users and testers the canary."""
    with running_stack(controller=()) as running:
        # Whichever section comes first: services show how long decisions took once there is one.
        wait_until(lambda: has_decided(running), PATIENCE_S, "a decision")
        yield running


def has_decided(stack: Stack) -> bool:
    """Ask for a decision, and say whether the service has counted one."""
    get(stack.gateway.address, TESTER)
    with urlopen(f"http://{stack.metrics_address}/metrics", timeout=PATIENCE_S) as page:
        return b"canary_decide_seconds_count" in page.read()


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
    places: dict[str, Callable[[], str]] = {
        "127.0.0.1:8000": lambda: stack.gateway.address,
        "127.0.0.1:9464": lambda: stack.metrics_address,
        "127.0.0.1:9465": lambda: shown_at(stack.plugin.output()),
        "127.0.0.1:9466": lambda: shown_at(stack.controller.output()),
    }
    for usual, here in places.items():
        # A stack may lack what a section does not ask.
        script = script.replace(usual, here()) if usual in script else script
    return bash(
        script, folder, {"CANARYCTL_ADDRESS": stack.admin_address, "CANARYCTL_ACTOR": "on-duty"}
    )


def release_of(admin: Admin) -> dict[str, Any]:
    """The release as it is stored."""
    return to_document(admin("GetPolicy", service_key=SERVICE_KEY).policy.release)


async def found(client: Client) -> set[str]:
    """Which versions the users and a tester get."""
    return {*(await client.versions(USERS)).values(), await client.version(TESTER)}


async def gets(client: Client, versions: set[str]) -> None:
    """Wait until users and tester together get these versions."""
    async with asyncio.timeout(PATIENCE_S):
        while await found(client) != versions:
            pass


async def nobody_gets_the_canary(client: Client, admin: Admin) -> None:
    """Neither users nor a tester, once the service goes by what was written last."""
    written = admin("GetPolicy", service_key=SERVICE_KEY).policy.revision
    await until(
        lambda: written in [s.revision for s in admin("ListServices").services],
        "the revision that was written",
    )
    await gets(client, {STABLE})
    assert await found(client) == {STABLE}


def told_canary(printed: str) -> list[str]:
    """The lines of ``explain`` that say that somebody gets the canary."""
    return re.findall(r"^canary \(.*\) because .*$", printed, re.MULTILINE)


@pytest.mark.parametrize("title", PLAYBOOKS)
async def test_a_playbook_takes_everybody_away_from_the_canary(
    stack: Stack, admin: Admin, title: str, tmp_path: Path
) -> None:
    async with client_of(stack) as client:
        await gets(client, {STABLE, CANARY})
        printed = run(title, stack, tmp_path)
        await nobody_gets_the_canary(client, admin)
    assert told_canary(printed) == []
    assert release_of(admin)["halted"]


async def test_after_a_rollback_the_gateways_file_gives_nobody_the_canary_while_another_is_halted(
    stack: Stack, admin: Admin, tmp_path: Path
) -> None:
    admin("MoveRelease", move="halt")
    async with client_of(stack) as client:
        await nobody_gets_the_canary(client, admin)
        admin("MoveRelease", move="roll-back")
        await gets(client, {STABLE, CANARY})
        printed = run(TOO_LATE, stack, tmp_path)
        await nobody_gets_the_canary(client, admin)
    assert told_canary(printed) == []
    assert release_of(admin)["halted"]


async def test_a_release_is_ended_and_made_again_when_no_gateways_file_gives_its_version(
    tmp_path: Path,
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    config: dict[str, Any] = {}
    with (
        running_stack(declare=lambda addresses: declared(addresses, config)) as stack,
        admin_of(stack.admin_address) as admin,
    ):
        admin.release(50)
        async with client_of(stack) as client:
            await gets(client, {STABLE, CANARY})
            run("Give everybody stable", stack, tmp_path)
            config |= yaml.safe_load(YAML.findall(TEXTS[END])[0])["plugins"][0]["config"]
            await reload(stack, client, admin)
            printed = run(END, stack, tmp_path)
            assert release_of(admin)["status"] == "rolled-back"
            await nobody_gets_the_canary(client, admin)
        assert told_canary(printed) == []
        assert "warning" not in printed
        run(AGAIN, stack, tmp_path)
        again = release_of(admin)
    assert (again["status"], again["percentage"]) == ("in-progress", 1)
    assert CANARY in (tmp_path / "incident-4711.html").read_text()


def declared(addresses: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    """The gateway's file, with another config of the plugin if there is one."""
    document = declare(addresses)
    for plugin in document["plugins"]:
        if config and "service" not in plugin and "route" not in plugin:
            plugin["config"] = dict(config)
    return document


async def reload(stack: Stack, client: Client, admin: Admin) -> None:
    """Have the gateway read its file, and wait until the baseline in it is the only one."""
    stack.write_declarative()
    stack.gateway.reload()
    async with asyncio.timeout(PATIENCE_S):
        while "reloaded" not in stack.gateway.log():
            await client.version()
        stack.plugin.signal(signal.SIGHUP)
        while shares(admin) != [0]:
            await client.version()


def shares(admin: Admin) -> list[float]:
    """The percentages of the baselines in contact."""
    listed = admin("ListBaselines", service_key=SERVICE_KEY).baselines
    return [one.baseline.policy.release.percentage for one in listed]


@pytest.mark.parametrize("title", RUNBOOKS)
def test_the_commands_of_a_runbook_work(
    stack: Stack, admin: Admin, title: str, tmp_path: Path
) -> None:
    revision = admin("GetPolicy", service_key=SERVICE_KEY).policy.revision
    run(title, stack, tmp_path)
    assert admin("GetPolicy", service_key=SERVICE_KEY).policy.revision == revision


def test_every_command_of_the_page_is_in_a_section_that_is_run() -> None:
    assert SECTIONS.keys() == {*WALK, *PLAYBOOKS, TOO_LATE, END, AGAIN, *RUNBOOKS}
    assert len(BLOCK.findall(PAGE)) == PAGE.count("```sh\n")
    assert RUNBOOKS
