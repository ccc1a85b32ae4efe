"""canaryctl as a process: exit codes, signals, pipes, sockets, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from decision_svc.app import Running
from support.redis_server import running_redis
from support.service import serve_in_thread

COMMAND = [sys.executable, "-m", "canaryctl"]
# A suite that runs in the background hands on that an interrupt is ignored.
HEEDING = ["env", "--default-signal=INT"]


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with serve_in_thread() as running:
        yield running


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> Iterator[str]:
    """An address where nobody listens, kept from others for as long as the test lasts."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def run(
    *arguments: str, text: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=text,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_environment_names_the_address_and_the_actor(service: Running) -> None:
    known = {"CANARYCTL_ADDRESS": service.admin_address, "CANARYCTL_ACTOR": "sam"}
    assert run("version", "register", "env", "v1", "--reason", "x", **known).returncode == 0
    history = run("history", "env", "--output", "json", **known)
    assert json.loads(history.stdout)["changes"][0]["actor"] == "sam"


def test_options_rule_over_the_environment(service: Running, closed: str) -> None:
    result = run("status", "--address", service.admin_address, CANARYCTL_ADDRESS=closed)
    assert result.returncode == 0


def test_the_actor_is_by_default_the_login_name(service: Running) -> None:
    at = ["--address", service.admin_address]
    run(*at, "version", "register", "login", "v1", "--reason", "x", LOGNAME="robin")
    history = run(*at, "--output", "json", "history", "login")
    assert json.loads(history.stdout)["changes"][0]["actor"] == "robin"


def test_a_service_that_is_not_there_is_unavailable(closed: str) -> None:
    result = run("--output", "json", "status", "--address", closed)
    error = json.loads(result.stderr)["error"]
    assert (result.returncode, result.stdout, error["code"]) == (4, "", "unavailable")
    assert f"is the decision service running at {closed}" in error["next"]
    assert "CANARYCTL_ADDRESS" in error["next"]


def test_a_store_that_is_gone_is_unavailable() -> None:
    with running_redis() as redis, serve_in_thread(redis_url=redis.url) as running:
        redis.stop()
        result = run(
            "version", "register", "shop", "v1", "--reason", "x", "--address", running.admin_address
        )
    assert result.returncode == 4
    assert "and its store?" in result.stderr


def test_a_service_that_does_not_answer_is_late(silent: str) -> None:
    result = run("percentage", "shop", "5", "--reason", "x", "--address", silent, "--timeout", "1")
    assert result.returncode == 4
    assert "canaryctl history shop" in result.stderr


def test_the_wrong_port_is_told_as_such(service: Running) -> None:
    result = run("status", "--address", service.decision_address)
    assert result.returncode == 5
    assert "admin port" in result.stderr


def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/admin.sock"
    with serve_in_thread(admin_listen=address):
        assert run("status", "--address", address).returncode == 0


def test_a_reader_that_goes_away_leaves_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        result = subprocess.run(
            [*COMMAND, "segment", "defaults"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (result.returncode, result.stderr) == (141, "")


def test_an_interrupt_ends_with_its_exit_code(silent: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        process = subprocess.Popen(
            [*HEEDING, *COMMAND, "--timeout=60", "status", "--address", f"127.0.0.1:{port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = server.accept()  # so it is waiting for an answer now
        with connection:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_completion_offers_commands_and_the_service_keys(service: Running) -> None:
    known = {"CANARYCTL_ADDRESS": service.admin_address, "_CANARYCTL_COMPLETE": "bash_complete"}
    run(
        "version",
        "register",
        "completed-shop",
        "v1",
        "--reason",
        "x",
        **known | {"_CANARYCTL_COMPLETE": ""},
    )
    words = "canaryctl policy show compl"
    assert run(COMP_WORDS=words, COMP_CWORD="3", **known).stdout == "plain,completed-shop\n"
    assert run(COMP_WORDS="canaryctl whi", COMP_CWORD="1", **known).stdout == "plain,whitelist\n"


def test_completion_is_quiet_when_the_service_is_not_there(closed: str) -> None:
    result = run(
        CANARYCTL_ADDRESS=closed,
        _CANARYCTL_COMPLETE="bash_complete",
        COMP_WORDS="canaryctl status x",
        COMP_CWORD="2",
    )
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


def test_text_that_the_terminal_cannot_show_is_no_failure(service: Running) -> None:
    at = ["--address", service.admin_address]
    run(*at, "version", "register", "ascii", "v1", "--reason", "日本")
    result = run(*at, "history", "ascii", PYTHONIOENCODING="latin-1")
    assert result.returncode == 0
    assert "\\u65e5\\u672c" in result.stdout
