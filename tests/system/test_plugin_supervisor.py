"""The plugin server as processes: workers die and are replaced, and Kong hears nothing of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from canary_plugin.supervisor import FREE_DEATHS, pause_s
from decision_svc.app import Running
from dev_stack.processes import Process
from support import unhurried_plugin
from support.chaos import is_gone
from support.kong_side import Kong, RpcError
from support.service import serve_in_thread
from support.waiting import until

WITHIN_S = 90.0
TESTER = {"x-canary-test": "true"}
CONFIG = {
    "canary_upstream": "canary.yyc3-xy-api",
    "whitelisted_headers": [{"name": "x-canary-test", "value": "true"}],
    "deadline_ms": 10_000,
}
CLIENTS = 16
TESTS = Path(__file__).resolve().parents[1]
# The outcomes' socket cannot be made, so no worker of it ever gets ready.
FAILING = ("--outcomes", "syslog", "--outcomes-socket", "/nonexistent/o")
REFUSED = (ConnectionRefusedError, FileNotFoundError)
# Whoever is not root gets a user namespace with the PID namespace.
AS_ROOT = () if os.geteuid() == 0 else ("--user", "--map-root-user")


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with serve_in_thread() as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kong-") as name:
        yield Path(name)


class Server(Process):
    """The plugin server, and what its log says of it."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        wrapped_in: tuple[str, ...] = (),
        module: str = unhurried_plugin.NAME,
    ) -> None:
        self.socket = folder / "s"
        command = [*wrapped_in, sys.executable, "-m", module]
        super().__init__(
            "plugin",
            [*command, "--socket", str(self.socket), "--outcomes", "off", *arguments],
            folder / "log",
            ready_word="ready socket=",
            environment={"PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        )

    @property
    def workers(self) -> list[int]:
        """Pid of every worker that has got ready, in that order."""
        return [int(pid) for pid in re.findall(r" worker=(\d+)", self.output())]

    async def has_workers(self, count: int) -> None:
        """Wait until so many workers have got ready."""
        await until(lambda: len(self.workers) >= count)

    def metrics(self) -> str:
        """What Prometheus reads."""
        address = re.findall(r"metrics=(\S+)", self.output())[-1]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=WITHIN_S) as answer:
            return str(answer.read().decode())


@asynccontextmanager
async def serving(
    folder: Path, service: Running, *arguments: str, wrapped_in: tuple[str, ...] = ()
) -> AsyncIterator[Server]:
    options = ("--decision-service", service.decision_address, "--metrics-listen", "127.0.0.1:0")
    server = Server(folder, *options, *arguments, wrapped_in=wrapped_in)
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.kill)


class Load:
    """Clients that start one event after the other, as Kong does, and never give up."""

    def __init__(self, path: Path) -> None:
        self._kong = Kong(path, spread=CLIENTS)
        self._instance = 0
        self.answered = self.cut = self.restarted = 0
        self.wrong: list[Any] = []
        self._is_over = False

    async def __aenter__(self) -> Load:
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        for _ in range(CLIENTS):
            self._tasks.create_task(self._ask())
        await until(lambda: self.answered > CLIENTS)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.goes_on()
        self._is_over = True
        await self._tasks.__aexit__(None, None, None)
        await self._kong.__aexit__()
        assert self.wrong == []

    async def goes_on(self) -> None:
        """Wait until every client has been answered anew."""
        answered = self.answered
        await until(lambda: self.answered > answered + CLIENTS)

    async def _ask(self) -> None:
        while not self._is_over:
            try:
                event = await self._kong.access(self._instance, TESTER)
            except RpcError as error:
                # What Kong does: start the instance again and repeat the event.
                if not str(error).startswith("no plugin instance"):
                    self.wrong.append(error)
                    return
                self.restarted += 1
                await self._start_instance()
            except REFUSED as error:
                self.wrong.append(error)
                return
            except (EOFError, OSError):
                self.cut += 1
            else:
                self.answered += 1
                if (event.variant, event.end) != ("canary", "ret"):
                    self.wrong.append(event)

    async def _start_instance(self) -> None:
        try:
            self._instance = await self._kong.start(CONFIG)
        except REFUSED as error:
            self.wrong.append(error)
        except (EOFError, OSError):
            self.cut += 1


async def test_twenty_killed_workers_cost_only_the_calls_they_had(
    folder: Path, service: Running
) -> None:
    async with serving(folder, service) as server, Load(server.socket) as load:
        for round_ in range(1, 21):
            cut = load.cut
            os.kill(server.workers[-1], signal.SIGKILL)
            await server.has_workers(round_ + 1)
            await load.goes_on()
            assert load.cut - cut <= CLIENTS
        assert load.cut > 0
        assert "canary_plugin_worker_restarts_total 20.0" in await asyncio.to_thread(server.metrics)


async def test_an_upgrade_fails_no_event_and_restarts_no_instance(
    folder: Path, service: Running
) -> None:
    async with serving(folder, service) as server, Load(server.socket) as load:
        restarted = load.restarted
        for round_ in range(1, 6):
            old = server.workers[-1]
            server.signal(signal.SIGHUP)
            await server.has_workers(round_ + 1)
            await until(partial(is_gone, old))
            await load.goes_on()
        assert (load.cut, load.restarted) == (0, restarted)


async def test_an_upgrade_whose_worker_dies_leaves_the_old_one_serving(
    folder: Path, service: Running
) -> None:
    async with serving(folder, service) as server, Load(server.socket) as load:
        (old,) = server.workers
        server.signal(signal.SIGHUP)
        await until(lambda: len(_children(server.pid)) == 2)
        (new,) = set(_children(server.pid)) - {old}
        os.kill(new, signal.SIGKILL)
        await until(lambda: f"worker {new} ended with -9" in server.output())
        assert (load.cut, server.workers, is_gone(old)) == (0, [old], False)


async def test_sigterm_lets_events_end_and_removes_the_socket(
    folder: Path, service: Running
) -> None:
    async with serving(folder, service) as server, Kong(server.socket) as kong:
        instance = await kong.start(CONFIG)

        def stop() -> dict[str, list[str]]:
            server.signal(signal.SIGTERM)
            return {name: [value] for name, value in TESTER.items()}

        event = await kong.event(instance, {"kong.request.get_headers": stop})
        assert (event.variant, event.end) == ("canary", "ret")
        assert await asyncio.to_thread(server.stop) == 0
        assert os.listdir(folder) == ["log"]
        assert all(map(is_gone, server.workers))


async def test_a_worker_does_not_outlive_its_supervisor(folder: Path, service: Running) -> None:
    async with serving(folder, service) as server:
        (worker,) = server.workers
        server.kill()
        await until(lambda: is_gone(worker))
        async with serving(folder, service) as next_, Load(next_.socket) as load:
            assert load.cut == 0


async def test_a_removed_socket_is_bound_again_while_pooled_connections_go_on(
    folder: Path, service: Running
) -> None:
    async with serving(folder, service) as server, Load(server.socket) as load:
        server.socket.unlink()
        await until(server.socket.exists)
        await load.goes_on()
        async with Kong(server.socket) as kong:
            instance = await kong.start(CONFIG)
            assert (await kong.access(instance, TESTER)).variant == "canary"
        assert (load.cut, len(server.workers)) == (0, 1)


async def test_a_stale_socket_is_replaced_and_gets_the_mode_asked_for(
    folder: Path, service: Running
) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "s"))
    async with serving(folder, service, "--socket-mode", "0620") as server:
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o620
        async with Kong(server.socket) as kong:
            assert await kong.start(CONFIG)


async def test_the_socket_of_a_successor_is_left_alone(folder: Path, service: Running) -> None:
    async with serving(folder, service) as old, serving(folder, service) as new:
        assert await asyncio.to_thread(old.stop) == 0
        async with Kong(new.socket) as kong:
            assert await kong.start(CONFIG)


async def test_systemd_s_socket_is_used_and_systemd_is_told(folder: Path, service: Running) -> None:
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
    ):
        listener.bind(str(folder / "systemd"))
        listener.listen()
        told.bind(str(folder / "notify"))
        told.setblocking(False)
        os.set_inheritable(listener.fileno(), True)
        child = _activated(listener, service, folder / "notify")
        try:
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sock_recv(told, 100), WITHIN_S) == b"READY=1"
            async with Load(folder / "systemd") as load:
                assert load.cut == 0
            child.terminate()
            assert await asyncio.to_thread(child.wait, WITHIN_S) == 0
            assert await asyncio.wait_for(loop.sock_recv(told, 100), WITHIN_S) == b"STOPPING=1"
            assert (folder / "systemd").exists()
        finally:
            child.kill()
            child.wait()


async def test_as_process_1_it_collects_orphans_restarts_and_ends(
    folder: Path, service: Running
) -> None:
    wrapped = ("unshare", *AS_ROOT, "--pid", "--fork", "--mount-proc", "--kill-child")
    async with serving(folder, service, "--exit-with-parent", wrapped_in=wrapped) as server:
        (first,) = _children(server.pid)
        _leave_an_orphan(first)
        (worker,) = (pid for pid in _children(first) if "--worker" in _command_line(pid))
        await until(lambda: _children(first) == [worker])
        os.kill(worker, signal.SIGKILL)
        await until(lambda: len(server.workers) == 2)
        async with Load(server.socket) as load:
            assert load.cut == 0
        os.kill(first, signal.SIGTERM)
        await until(lambda: not server.is_running())
        assert server.stop() == 0
        assert not server.socket.exists()


async def test_as_a_start_command_it_ends_with_its_parent(folder: Path, service: Running) -> None:
    shell = ("sh", "-c", '"$@" & wait', "sh")
    options = ("--exit-with-parent",)
    async with serving(folder, service, *options, wrapped_in=shell) as server:
        (supervisor,) = _children(server.pid)
        server.kill()
        await until(lambda: is_gone(supervisor))
        assert all(map(is_gone, server.workers))
        assert not server.socket.exists()


async def test_workers_that_never_get_ready_do_not_make_it_give_up(folder: Path) -> None:
    server = Server(folder, *FAILING, module="canary_plugin")
    server.spawn()
    try:
        await until(lambda: server.output().count("ended with 1") > FREE_DEATHS)
        assert server.is_running()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.socket))
    finally:
        assert await asyncio.to_thread(server.stop) == 0


@pytest.mark.parametrize(
    ("early_deaths", "expected"), [(0, 0.0), (2, 0.0), (3, 0.1), (4, 0.2), (8, 3.2), (1_000, 5.0)]
)
def test_the_pause_grows_with_deaths_before_readiness(early_deaths: int, expected: float) -> None:
    assert expected == pause_s(early_deaths)


async def test_phases_decisions_and_troubles_are_counted(folder: Path, service: Running) -> None:
    async with serving(folder, service) as server, Kong(server.socket) as kong:
        instance = await kong.start(CONFIG)
        for _ in range(3):
            await kong.access(instance, TESTER)
        found = await asyncio.to_thread(server.metrics)
    for line in (
        'canary_plugin_events_total{outcome="ended",phase="access"} 3.0',
        'canary_plugin_event_seconds_count{phase="access"} 3.0',
        'canary_plugin_event_seconds_bucket{le="+Inf",phase="access"} 3.0',
        "canary_plugin_instances 1.0",
        "canary_plugin_events_in_progress 0.0",
        "canary_plugin_worker_restarts_total 0.0",
    ):
        assert line in found.splitlines()
    (decided,) = (line for line in found.splitlines() if "decisions_total{" in line)
    assert 'decider="remote"' in decided
    assert 'variant="canary"} 3.0' in decided


def test_neither_the_supervisor_nor_the_query_command_carries_grpc() -> None:
    code = (
        "import sys, canary_plugin.__main__, canary_plugin.supervisor, canary_plugin.schema;"
        "print(sorted({'asyncio', 'grpc', 'uvloop', 'google.protobuf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _activated(listener: socket.socket, service: Running, notify: Path) -> subprocess.Popen[bytes]:
    """The server as systemd starts it: its socket is descriptor 3."""
    first = (
        f"import os, sys; os.dup2({listener.fileno()}, 3); "
        "os.environ['LISTEN_PID'] = str(os.getpid()); "
        "os.execv(sys.executable, [sys.executable, '-m', 'canary_plugin', *sys.argv[1:]])"
    )
    options = ("--outcomes", "off", "--metrics-listen", "")
    return subprocess.Popen(
        [
            *(sys.executable, "-c", first, *options),
            *("--decision-service", service.decision_address),
        ],
        pass_fds=(listener.fileno(),),
        env=os.environ | {"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(notify)},
        stderr=subprocess.DEVNULL,
    )


def _leave_an_orphan(first: int) -> None:
    """A process whose parent ends at once, so that it becomes a child of process 1."""
    orphan = "import os; os.fork() or os.execvp('sleep', ['sleep', '0.1'])"
    enter = ("nsenter", "--target", str(first), "--pid", "--mount", *AS_ROOT[:1])
    subprocess.run([*enter, sys.executable, "-c", orphan], check=True)


def _children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command_line(pid: int) -> list[str]:
    """What it was started with; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
