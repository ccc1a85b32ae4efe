"""The plugin server's runtime on a real socket: any phases, Kong's side played by the test."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import stat
import sys
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import pytest
import uvloop
from canary_plugin.app import Settings, running
from canary_plugin.runtime.events import Events, wait
from canary_plugin.runtime.instances import Instances
from canary_plugin.runtime.server import MAX_MESSAGE, PluginServer
from canary_plugin.troubles import Troubles
from support.kong_side import Connection, Event, Kong, PdkError, RpcError
from support.plugin_stage import SEED, plugin
from support.service import NOWHERE, serve_in_thread
from support.waiting import until

NO_INSTANCE = r"^no plugin instance"
Access = Callable[[Any], None]


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Phases:
    """A plugin whose access phase is given."""

    def __init__(self, access: Access) -> None:
        self.access = access


@dataclass(slots=True, kw_only=True)
class Server:
    """A plugin server around one access phase."""

    kong: Kong
    clock: Clock
    events: Events
    instances: Instances
    troubles: Troubles
    path: str
    plugin: PluginServer
    instance: int = 0
    tasks: list[asyncio.Task[Event]] = field(default_factory=list)

    def begin(self, kong: Kong | None = None, **answers: Any) -> asyncio.Task[Event]:
        """Begin an access phase."""
        table = {f"kong.{name}": value for name, value in answers.items()}
        event = (kong or self.kong).event(self.instance, table)
        self.tasks.append(asyncio.create_task(event))
        return self.tasks[-1]


@asynccontextmanager
async def serving(
    access: Access, *, spread: int = 1, limit_s: float = 5.0
) -> AsyncIterator[Server]:
    clock = Clock()
    troubles = Troubles(clock)
    instances = Instances("any", lambda _: Phases(access), clock=clock, now=clock, idle_s=900.0)
    events = Events(troubles, clock, limit_s=limit_s)
    server = PluginServer(instances, events, troubles)
    with tempfile.TemporaryDirectory(prefix="kong-") as directory:
        path = f"{directory}/s"
        await server.listen_at(path, 0o600)
        try:
            async with Kong(path, spread=spread) as kong:
                served = Server(
                    kong=kong, clock=clock, events=events, instances=instances,
                    troubles=troubles, path=path, plugin=server,
                )  # fmt: skip
                served.instance = await kong.start({}, name="any")
                yield served
                for task in served.tasks:
                    task.cancel()
                await asyncio.gather(*served.tasks, return_exceptions=True)
        finally:
            server.deafen()
            await server.drain(0)


def echo(kong: Any) -> None:
    """Asks Kong twice and tells it what it heard."""
    first = kong.one()
    second = kong.two()
    kong.heard(first, second)


ECHO = {"kong.one": "a", "kong.two": ["b"], "kong.heard": None}


async def test_a_phase_calls_kong_and_ends() -> None:
    async with serving(echo) as served:
        event = await served.kong.event(served.instance, ECHO)
        assert event.calls == [("kong.one", []), ("kong.two", []), ("kong.heard", ["a", ["b"]])]
        assert event.end == "ret"
        assert len(served.events) == 0


async def test_steps_may_arrive_on_other_connections_where_ids_repeat() -> None:
    async with serving(echo, spread=5) as served:
        for value in range(20):
            event = await served.kong.event(served.instance, ECHO | {"kong.one": value})
            assert event.calls[-1] == ("kong.heard", [value, ["b"]])


async def test_many_events_at_once_on_one_connection_are_not_mixed_up() -> None:
    async with serving(echo) as served:
        connection = await Connection.open(served.path)
        steps = []
        for _ in range(50):
            connection.send(
                "plugin.HandleEvent", {"InstanceId": served.instance, "EventName": "access"}
            )
        for id_ in range(1, 51):
            steps.append((await connection.answer(id_))["EventId"])
        assert len(set(steps)) == 50
        for number, id_ in reversed(list(enumerate(steps))):
            await connection.call("plugin.Step", {"EventId": id_, "Data": number})
        for number, id_ in enumerate(steps):
            heard = await connection.call("plugin.Step", {"EventId": id_, "Data": "x"})
            assert heard["Data"]["Args"] == [number, "x"]
        connection.close()


@pytest.mark.parametrize("data", [None, False, 0, "", [], {}])
async def test_a_result_that_is_nothing_is_not_lost(data: Any) -> None:
    async with serving(echo) as served:
        event = await served.kong.event(served.instance, ECHO | {"kong.one": data})
        assert event.calls[-1] == ("kong.heard", [data, ["b"]])


async def test_an_error_of_kong_is_an_exception_in_the_phase() -> None:
    def access(kong: Any) -> None:
        try:
            kong.one()
        except Exception as error:
            kong.heard(f"{type(error).__name__}: {error}")

    async with serving(access) as served:
        event = await served.kong.event(served.instance, ECHO | {"kong.one": PdkError("broken")})
        assert event.calls[-1] == ("kong.heard", ["PDKException: exception from kong.one: broken"])
        assert served.troubles.counts == {}


async def test_exit_ends_the_event_with_that_call() -> None:
    async with serving(lambda kong: kong.response.exit(403)) as served:
        step = await served.kong.call(
            "plugin.HandleEvent", {"InstanceId": served.instance, "EventName": "access"}
        )
        assert step["Data"] == {"Method": "kong.response.exit", "Args": [403]}
        assert len(served.events) == 0


async def test_an_unknown_instance_is_answered_in_the_words_that_kong_recovers_from() -> None:
    async with serving(echo) as served:
        for method in ("HandleEvent", "InstanceStatus", "CloseInstance"):
            argument: Any = 7
            if method == "HandleEvent":
                argument = {"InstanceId": 7, "EventName": "access"}
            with pytest.raises(RpcError, match=NO_INSTANCE):
                await served.kong.call(f"plugin.{method}", argument)
        assert served.troubles.counts == {}


async def test_a_closed_instance_is_unknown() -> None:
    async with serving(echo) as served:
        closed = await served.kong.call("plugin.CloseInstance", served.instance)
        assert closed["Id"] == served.instance
        with pytest.raises(RpcError, match=NO_INSTANCE):
            await served.kong.event(served.instance, ECHO)


async def test_instance_ids_of_two_servers_are_far_apart() -> None:
    async with serving(echo) as one, serving(echo) as other:
        assert 1 << 32 <= one.instance < 1 << 53
        assert one.instance != other.instance
        started = await one.kong.start({}, name="any")
        assert started == one.instance + 1
        with pytest.raises(RpcError, match=NO_INSTANCE):
            await other.kong.event(one.instance, ECHO)


@pytest.mark.parametrize(
    ("method", "argument", "words"),
    [
        ("plugin.Step", {"EventId": 5}, "event id 5 not found"),
        ("plugin.Step", {}, "EventId"),
        ("plugin.StepError", {"EventId": 5}, "event id 5 not found"),
        ("plugin.Unheard", {}, "not supported"),
        ("plugin.StartInstance", {"Name": "other", "Config": "{}"}, "this server runs any"),
        ("plugin.StartInstance", {"Name": "any", "Config": "no json"}, "Expecting value"),
        ("plugin.HandleEvent", None, "subscriptable"),
        (["no", "method"], {}, "unhashable"),
    ],
)
async def test_an_odd_call_gets_an_error_and_the_connection_lives(
    method: Any, argument: Any, words: str
) -> None:
    async with serving(echo) as served:
        with pytest.raises(RpcError, match=words) as raised:
            await served.kong.call(method, argument)
        assert not str(raised.value).startswith("no plugin instance")
        assert (await served.kong.event(served.instance, ECHO)).end == "ret"


async def test_a_phase_that_the_plugin_does_not_have_gets_an_error() -> None:
    async with serving(echo) as served:
        with pytest.raises(RpcError, match="any has no phase log"):
            await served.kong.event(served.instance, ECHO, phase="log")


async def test_a_step_for_an_event_that_waits_for_the_loop_is_refused() -> None:
    release = asyncio.Event()
    async with serving(lambda _: wait(release.wait()) and None) as served:
        waiting = served.begin()
        await until(lambda: len(served.events) == 1)
        (id_,) = served.events._events
        with pytest.raises(RpcError, match="not found"):
            await served.kong.call("plugin.Step", {"EventId": id_})
        release.set()
        assert (await waiting).end == "ret"


def fails_at_once(kong: Any) -> None:
    raise ValueError("a bug")


def fails_after_a_call(kong: Any) -> None:
    kong.one()
    raise ValueError("a bug")


async def _nothing() -> None:
    raise ValueError("a bug")


def fails_after_waiting(kong: Any) -> None:
    wait(_nothing())


def waits_for_nonsense(kong: Any) -> None:
    wait(7)  # type: ignore[arg-type]


def says_what_cannot_be_said(kong: Any) -> None:
    kong.one(object())


def says_what_cannot_be_said_after_waiting(kong: Any) -> None:
    wait(asyncio.sleep(0))
    kong.one(object())


@pytest.mark.parametrize(
    "bug",
    [
        fails_at_once,
        fails_after_a_call,
        fails_after_waiting,
        waits_for_nonsense,
        says_what_cannot_be_said,
        says_what_cannot_be_said_after_waiting,
    ],
)
async def test_a_bug_costs_its_request_only_and_is_told_once_an_interval(
    bug: Access, caplog: pytest.LogCaptureFixture
) -> None:
    phases = iter([bug, bug, echo, bug])

    def access(kong: Any) -> None:
        next(phases)(kong)

    async with serving(access) as served:
        for expected in (0, 0, 3):
            event = await served.kong.event(served.instance, ECHO)
            assert event.end == "ret"
            assert len([c for c in event.calls if c[0] != "kong.one"]) == max(0, expected - 1)
        assert served.troubles.counts == {"plugin-error": 2}
        assert len(caplog.records) == 1
        served.clock.now += 10
        await served.kong.event(served.instance, ECHO)
        assert [record.args[1:3] for record in caplog.records] == [(1, 1), (2, 3)]  # type: ignore[index]
        assert len(served.events) == 0


async def test_an_event_that_takes_too_long_is_answered_and_its_result_dropped() -> None:
    late: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    went_on = []

    def access(kong: Any) -> None:
        went_on.append(wait(late))

    async with serving(access, limit_s=5.0) as served:
        waiting = served.begin()
        await until(lambda: len(served.events) == 1)
        served.clock.now += 5.0
        served.events.sweep()
        assert len(served.events) == 1
        served.clock.now += 0.1
        served.events.sweep()
        event = await waiting
        assert (event.calls, event.end) == ([], "ret")
        assert served.troubles.counts == {"too-long": 1}
        assert len(served.events) == 0
        if not late.done():
            late.set_result("too late")
        await asyncio.sleep(0)
        assert went_on == []
        assert served.troubles.counts == {"too-long": 1}


async def test_what_an_event_waits_for_is_cancelled_when_it_takes_too_long() -> None:
    cancelled = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with serving(lambda _: wait(endless())) as served:
        waiting = served.begin()
        await until(lambda: len(served.events) == 1)
        await asyncio.sleep(0)
        served.clock.now += 6
        served.events.sweep()
        await waiting
        await until(lambda: cancelled)
        assert served.troubles.counts == {"too-long": 1}


async def test_a_late_failure_is_dropped_too(caplog: pytest.LogCaptureFixture) -> None:
    stubborn, failing = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await stubborn.wait()
            failing.set()
            raise ValueError("late") from None

    async with serving(lambda _: wait(fails())) as served:
        waiting = served.begin()
        await until(lambda: len(served.events) == 1)
        await asyncio.sleep(0)
        served.clock.now += 6
        served.events.sweep()
        assert (await waiting).end == "ret"
        stubborn.set()
        await failing.wait()
        for _ in range(3):  # what waits for its end hears of it
            await asyncio.sleep(0)
        gc.collect()
        assert served.troubles.counts == {"too-long": 1}
        assert [record.name for record in caplog.records] == ["canary_plugin"]


def cleans_up(kong: Any) -> None:
    try:
        wait(asyncio.Event().wait())
    finally:
        for _ in range(3):
            kong.one()


async def test_an_event_that_takes_too_long_may_still_put_things_right_with_kong() -> None:
    async with serving(cleans_up) as served:
        waiting = served.begin(one=None)
        await until(lambda: len(served.events) == 1)
        served.clock.now += 6
        served.events.sweep()
        event = await waiting
        assert (event.calls, event.end) == ([("kong.one", [])] * 3, "ret")
        assert len(served.events) == 0
        assert served.troubles.counts == {"too-long": 1}


async def test_an_event_that_waits_on_even_when_interrupted_is_dropped() -> None:
    def access(kong: Any) -> None:
        try:
            wait(asyncio.get_running_loop().create_future())
        finally:
            wait(asyncio.get_running_loop().create_future())

    async with serving(access) as served:
        waiting = served.begin()
        await until(lambda: len(served.events) == 1)
        for _ in range(2):
            served.clock.now += 6
            served.events.sweep()
        assert (await waiting).end == "ret"
        assert len(served.events) == 0


async def test_a_finally_that_fails_does_not_end_the_sweeping() -> None:
    def access(kong: Any) -> None:
        try:
            kong.one()
        finally:
            raise ValueError("a bug")

    async with serving(access) as served:
        served.begin(one=lambda: PdkError("never"))
        connection = await Connection.open(served.path)
        call = {"InstanceId": served.instance, "EventName": "access"}
        await connection.call("plugin.HandleEvent", call)
        served.clock.now += 100
        served.events.sweep()
        assert len(served.events) == 0
        connection.close()


@pytest.mark.parametrize("phase", [echo, cleans_up])
async def test_events_that_kong_has_left_are_dropped_and_leave_nothing_behind(
    phase: Access,
) -> None:
    kept: list[weakref.ref[set[int]]] = []

    def access(kong: Any) -> None:
        of_the_event = set[int]()
        kept.append(weakref.ref(of_the_event))
        try:
            kong.one()
        finally:
            phase(kong)

    async with serving(access) as served:
        connection = await Connection.open(served.path)
        call = {"InstanceId": served.instance, "EventName": "access"}
        for _ in range(500):
            await connection.call("plugin.HandleEvent", call)
        connection.close()
        assert len([ref for ref in kept if ref() is not None]) == 500
        served.clock.now += 64
        served.events.sweep()
        assert len(served.events) == 500
        served.clock.now += 2
        served.events.sweep()
        assert len(served.events) == 0
        assert served.troubles.counts == {"left-by-kong": 500}
        assert served.events.emptied.is_set()
        gc.collect()
        assert [ref for ref in kept if ref() is not None] == []


async def test_a_kong_that_vanishes_while_its_event_waits_gets_no_answer_and_does_no_harm() -> None:
    release = asyncio.Event()

    def access(kong: Any) -> None:
        wait(release.wait())
        kong.one()

    async with serving(access) as served:
        connection = await Connection.open(served.path)
        connection.send(
            "plugin.HandleEvent", {"InstanceId": served.instance, "EventName": "access"}
        )
        await until(lambda: len(served.events) == 1)
        connection.close()
        await until(lambda: len(served.plugin._connections) == 1)
        release.set()
        assert (await served.kong.event(served.instance, {"kong.one": 1})).end == "ret"
        served.clock.now += 66
        served.events.sweep()
        assert len(served.events) == 0


async def test_idle_instances_are_dropped_and_recovered() -> None:
    async with serving(echo) as served:
        busy = await served.kong.start({}, name="any")
        served.clock.now += 899
        await served.kong.event(busy, ECHO)
        served.clock.now += 2
        served.instances.drop_idle()
        assert list(served.instances) == [busy]
        with pytest.raises(RpcError, match=NO_INSTANCE):
            await served.kong.event(served.instance, ECHO)
        again = await served.kong.start({}, name="any")
        assert again not in (busy, served.instance)
        assert (await served.kong.event(again, ECHO)).end == "ret"


async def test_an_instance_dropped_in_the_middle_of_an_event_does_not_disturb_it() -> None:
    async with serving(echo) as served:

        def drop() -> str:
            served.clock.now += 1000
            served.instances.drop_idle()
            return "a"

        event = await served.kong.event(served.instance, ECHO | {"kong.one": drop})
        assert event.calls[-1] == ("kong.heard", ["a", ["b"]])
        assert len(served.instances) == 0


async def test_events_that_wait_do_not_hold_each_other_up() -> None:
    release = asyncio.Event()

    def access(kong: Any) -> None:
        wait(release.wait())
        echo(kong)

    async with serving(access, spread=100) as served:
        answers: dict[str, Any] = {k.removeprefix("kong."): v for k, v in ECHO.items()}
        waiting = [served.begin(**answers) for _ in range(100)]
        await until(lambda: len(served.events) == 100)
        assert not any(task.done() for task in waiting)
        release.set()
        events = await asyncio.gather(*waiting)
        assert [event.calls[-1] for event in events] == [("kong.heard", ["a", ["b"]])] * 100


async def test_events_interleave_calls_and_waits_without_mixing() -> None:
    def access(kong: Any) -> None:
        seen = []
        for _ in range(5):
            seen.append(kong.one())
            seen.append(wait(_later(seen[-1])))
        kong.heard(seen)

    async def _later(value: Any) -> Any:
        for _ in range(value % 7):
            await asyncio.sleep(0)
        return value

    async with serving(access, spread=40) as served:
        waiting = [served.begin(one=number, heard=None) for number in range(40)]
        for number, event in enumerate(await asyncio.gather(*waiting)):
            assert event.calls[-1] == ("kong.heard", [[number] * 10])


async def test_an_awaitable_that_is_ready_at_once_is_fine() -> None:
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ready.set_result(7)
    async with serving(lambda kong: kong.heard(wait(ready), None)) as served:
        event = await served.kong.event(served.instance, ECHO)
        assert event.calls == [("kong.heard", [7, None])]


async def test_a_megabyte_of_headers_arrives_and_leaves_whole() -> None:
    async with serving(lambda kong: kong.heard(kong.one(), None), spread=3) as served:
        big = {f"x-{n}": "v" * 1000 for n in range(1000)}
        for _ in range(5):
            event = await served.kong.event(served.instance, ECHO | {"kong.one": big})
            assert event.calls[-1] == ("kong.heard", [big, None])


async def test_bytes_that_are_no_text_come_back_as_they_were() -> None:
    async with serving(lambda kong: kong.heard(kong.one(), None)) as served:
        raw = bytes(range(256)).decode("utf-8", "surrogateescape")
        event = await served.kong.event(served.instance, ECHO | {"kong.one": raw})
        assert event.calls[-1] == ("kong.heard", [raw, None])


GARBAGE = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xc1",
    b"\x00" * 100,
    msgpack.packb([0, 1, "plugin.Step"]),
    msgpack.packb([1, 2, 3, 4, 5]),
    msgpack.packb({"a": 1}),
    b"\x91" * 5000,
    b"\x81\x90\x00",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[:12]))
async def test_garbage_closes_its_own_connection_only(garbage: bytes) -> None:
    async with serving(echo, spread=2) as served:
        assert (await served.kong.event(served.instance, ECHO)).end == "ret"
        connection = await Connection.open(served.path)
        connection.send_bytes(garbage)
        assert await connection.closed()
        connection.close()
        assert (await served.kong.event(served.instance, ECHO)).end == "ret"
        assert served.troubles.counts == {"bad-message": 1}


async def test_a_message_without_an_end_is_not_collected_for_ever() -> None:
    async with serving(echo) as served:
        connection = await Connection.open(served.path)
        connection.send_bytes(b"\xdb" + (MAX_MESSAGE * 2).to_bytes(4, "big") + b"x" * 1000)
        connection.send_bytes(b"x" * (MAX_MESSAGE + 1))
        assert await connection.closed()
        connection.close()
        assert served.troubles.counts == {"bad-message": 1}


async def test_a_message_may_arrive_byte_by_byte() -> None:
    async with serving(echo) as served:
        connection = await Connection.open(served.path)
        call = {"InstanceId": served.instance, "EventName": "access"}
        for byte in msgpack.packb([0, 1, "plugin.HandleEvent", [call]]):
            connection.send_bytes(bytes([byte]))
            await asyncio.sleep(0)
        assert (await connection.answer(1))["Data"]["Method"] == "kong.one"
        connection.close()


async def test_a_stale_socket_file_is_replaced() -> None:
    with tempfile.TemporaryDirectory(prefix="kong-") as directory:
        path = Path(directory) / "s"
        settings = Settings(socket=str(path), decision_service=(NOWHERE,), socket_mode=0o620)
        path.write_text("stale")
        async with running(settings), Kong(path) as kong:
            assert await kong.start(SEED)
            assert stat.S_IMODE(path.stat().st_mode) == 0o620
            assert os.listdir(directory) == ["s"]
        assert os.listdir(directory) == []


async def test_a_server_leaves_the_socket_of_its_successor_alone() -> None:
    with tempfile.TemporaryDirectory(prefix="kong-") as directory:
        path = Path(directory) / "s"
        settings = Settings(socket=str(path), decision_service=(NOWHERE,))
        async with running(settings):
            successor = running(settings)
            await successor.__aenter__()
        async with Kong(path) as kong:
            assert await kong.start(SEED)
        await successor.__aexit__(None, None, None)
        assert not path.exists()


async def test_a_drain_waits_for_events_and_then_closes_connections() -> None:
    release = asyncio.Event()
    async with serving(lambda _: wait(release.wait()) and None) as served:
        waiting = served.begin()
        await until(lambda: len(served.events) == 1)
        drained = asyncio.create_task(served.plugin.drain(60))
        await asyncio.sleep(0)
        assert not drained.done()
        release.set()
        assert (await waiting).end == "ret"
        await drained
        with pytest.raises((EOFError, OSError)):
            await served.kong.call("plugin.InstanceStatus", served.instance)


async def test_a_drain_does_not_wait_longer_than_it_may() -> None:
    async with serving(lambda _: wait(asyncio.Event().wait()) and None) as served:
        waiting = served.begin()
        await until(lambda: len(served.events) == 1)
        await served.plugin.drain(0.01)
        with pytest.raises((EOFError, OSError)):
            await waiting


async def _access_for_ever(kong: Kong, instance: int) -> None:
    while True:
        await kong.access(instance)


async def test_instances_of_the_real_plugin_recover_when_dropped() -> None:
    async with plugin(NOWHERE, idle_instance_s=0.0) as (kong, _):
        instance = await kong.start(SEED)
        async with asyncio.timeout(20):
            with pytest.raises(RpcError, match=NO_INSTANCE):
                await _access_for_ever(kong, instance)


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "canary_plugin", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_the_dump_is_what_kong_reads() -> None:
    async with process("--dump") as child:
        output, _ = await child.communicate()
    (info,) = json.loads(output)
    assert child.returncode == 0
    assert (info["Name"], info["Version"]) == ("canary-release", "0.1.0")
    assert info["Phases"] == ["access"]
    assert 801 < info["Priority"] < 910
    assert info["Schema"]["name"] == "canary-release"
    (config,) = (f["config"] for f in info["Schema"]["fields"] if "config" in f)
    assert config["type"] == "record"
    names = [name for entry in config["fields"] for name in entry]
    assert set(SEED) <= set(names)
    assert len(names) == len(set(names))


async def test_without_a_socket_the_command_says_what_to_give() -> None:
    async with process() as child:
        _, errors = await child.communicate()
    assert child.returncode == 2
    assert b"give --socket PATH" in errors


async def test_sigterm_lets_events_end_and_exits_with_0() -> None:
    with tempfile.TemporaryDirectory(prefix="kong-") as directory, serve_in_thread() as service:
        path = Path(directory) / "s"
        arguments = (
            *("--socket", str(path), "--decision-service", service.decision_address),
            *("--outcomes", "off"),
        )
        async with process(*arguments) as child, Kong(path) as kong:
            assert child.stderr is not None
            assert b"ready socket=" in await child.stderr.readline()
            instance = await kong.start(SEED | {"deadline_ms": 10_000})

            def stop() -> dict[str, list[str]]:
                child.send_signal(signal.SIGTERM)
                return {"x-canary-test": ["true"]}

            # The first question is asked while it drains; its service key is new, too.
            event = await kong.event(instance, {"kong.request.get_headers": stop})
            assert (event.variant, event.end) == ("canary", "ret")
            _, errors = await asyncio.wait_for(child.communicate(), 20)
        assert child.returncode == 0
        assert [line.rpartition(" ")[2] for line in errors.decode().splitlines()] == [
            "draining", "stopped",
        ]  # fmt: skip
        assert os.listdir(directory) == []


async def test_the_log_is_quiet_while_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "canary_plugin"):
        async with serving(echo) as served:
            await served.kong.event(served.instance, ECHO)
    assert [record for record in caplog.records if record.name == "canary_plugin"] == []


@pytest.mark.parametrize(
    "scenario",
    [
        test_steps_may_arrive_on_other_connections_where_ids_repeat,
        test_many_events_at_once_on_one_connection_are_not_mixed_up,
        test_events_that_wait_do_not_hold_each_other_up,
        test_events_interleave_calls_and_waits_without_mixing,
        test_a_megabyte_of_headers_arrives_and_leaves_whole,
        test_an_event_that_takes_too_long_is_answered_and_its_result_dropped,
        test_an_event_that_takes_too_long_may_still_put_things_right_with_kong,
        test_a_kong_that_vanishes_while_its_event_waits_gets_no_answer_and_does_no_harm,
        test_a_message_without_an_end_is_not_collected_for_ever,
        test_a_stale_socket_file_is_replaced,
        test_a_drain_waits_for_events_and_then_closes_connections,
    ],
)
def test_the_same_holds_on_the_loop_that_the_server_runs_on(
    scenario: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    uvloop.run(scenario())
