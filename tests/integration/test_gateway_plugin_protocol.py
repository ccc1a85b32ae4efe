"""How Kong 3.9.1 and a plugin server get along, above all when they don't."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
from dev_gateway.app import Gateway
from support.gateway import echo, gateway, settings, stage, upstream
from support.raw_http import Reply, fetch
from support.scripted_plugin import PLUGIN, FaultError, PdkCall, Script, Server

TO_CANARY: PdkCall = ("kong.service.set_upstream", ["canary-upstream"])
UNEXPECTED = {"message": "An unexpected error occurred"}


async def served_by(port: int) -> str:
    reply = await fetch(port, "/orders/1")
    assert reply.status == 200
    return reply.one("X-Served-By")


async def test_the_plugin_sends_a_request_to_another_upstream(tmp_path: Path) -> None:
    script = Script(access=[TO_CANARY])
    async with stage(tmp_path, script) as staged:
        reply = await fetch(staged.port, "/orders/1")
    assert reply.one("X-Served-By") == "canary"
    assert reply.echoed("Host") == [f"127.0.0.1:{staged.canary_port}"]
    assert script.results["access"] == [True]


async def test_without_a_plugin_server_a_new_instance_means_500_and_later_all_is_well(
    tmp_path: Path,
) -> None:
    script = Script(access=[TO_CANARY])
    async with stage(tmp_path, script) as staged:
        await staged.server.__aexit__()
        refused = await fetch(staged.port, "/orders/1")
        assert (refused.status, refused.json()) == (500, UNEXPECTED)
        async with Server(tmp_path / "plugin.sock", script.respond):
            assert await served_by(staged.port) == "canary"


async def test_once_the_instance_is_known_a_dead_server_fails_open_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(tmp_path, Script(access=[TO_CANARY])) as staged:
        assert await served_by(staged.port) == "canary"
        await staged.server.seen(4)
        await staged.server.__aexit__()
        assert await served_by(staged.port) == "stable"
    failures = [r for r in caplog.records if "[canary-release] trying to connect" in r.message]
    assert {record.levelno for record in failures} == {logging.ERROR}


async def test_a_restarted_server_gets_its_instance_anew_and_the_event_again(
    tmp_path: Path,
) -> None:
    script = Script(access=[TO_CANARY], first_id=1000)
    async with stage(tmp_path, script) as staged:
        assert await served_by(staged.port) == "canary"
        script.started.clear()
        assert await served_by(staged.port) == "canary"
    assert len(script.configs) == 2
    assert script.configs[0] == script.configs[1]


async def test_set_upstream_to_an_unknown_name_returns_nil_and_changes_nothing(
    tmp_path: Path,
) -> None:
    script = Script(access=[("kong.service.set_upstream", ["missing-upstream"])])
    async with stage(tmp_path, script) as staged:
        assert await served_by(staged.port) == "stable"
        await staged.server.seen(3)
    assert staged.server.calls[2][2:] == ["plugin.Step", [{"EventId": 0}]]


async def test_set_upstream_on_a_service_with_an_ip_literal_is_a_500(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(access=[TO_CANARY])
    async with stage(tmp_path, script, service={"url": "http://127.0.0.1:9"}) as staged:
        reply = await fetch(staged.port, "/orders/1")
    assert reply.status == 500
    assert reply.json()["message"] == "An unexpected error occurred"
    assert "no host allowed" in caplog.text


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("kong.service.set_upstream", [123]),
        ("kong.service.set_upstream", []),
        ("kong.service.set_target", ["127.0.0.1", "80"]),
        ("kong.service.set_target", ["127.0.0.1", 80.5]),
        ("kong.service.set_target", ["127.0.0.1", 65536]),
        ("kong.service.request.set_header", ["x-a", None]),
        ("kong.service.request.set_header", ["x-a", {"a": 1}]),
        ("kong.service.request.set_header", [1, "a"]),
        ("kong.service.request.set_headers", ["x-a"]),
        ("kong.response.set_header", ["x-a", [1]]),
        ("kong.response.get_status", []),
        ("kong.log.serialize", []),
        ("kong.request.get_header", [None]),
        ("kong.request.get_headers", [1001]),
        ("kong.response.exit", ["200"]),
        ("kong.request.get_raw_body", []),
    ],
)
async def test_an_error_on_the_lua_side_is_a_500_and_the_plugin_never_hears(
    tmp_path: Path, method: str, args: list[Any]
) -> None:
    async with stage(tmp_path, Script(access=[(method, args)])) as staged:
        reply = await fetch(staged.port, "/orders/1")
        # The next to be heard of is the log phase, which runs all the same.
        await staged.server.seen(3)
    assert (reply.status, reply.json()) == (500, UNEXPECTED)
    assert [call[2] for call in staged.server.calls] == [
        "plugin.StartInstance",
        "plugin.HandleEvent",
        "plugin.HandleEvent",
    ]


async def test_a_method_that_does_not_exist_gives_nil(tmp_path: Path) -> None:
    script = Script(access=[("kong.request.get_hedaers", []), TO_CANARY])
    async with stage(tmp_path, script) as staged:
        assert await served_by(staged.port) == "canary"
    assert script.results["access"] == [None, True]


async def test_an_error_in_mid_event_fails_open_with_what_was_done_so_far(tmp_path: Path) -> None:
    script = Script(access=[("kong.service.request.set_header", ["x-step", "one"]), TO_CANARY])

    def respond(method: str, argument: Any) -> Any:
        if method == "plugin.Step":
            raise FaultError("boom")
        return script.respond(method, argument)

    async with stage(tmp_path, script) as staged:
        await staged.server.__aexit__()
        async with Server(tmp_path / "plugin.sock", respond):
            reply = await fetch(staged.port, "/orders/1")
    assert reply.one("X-Served-By") == "stable"
    assert reply.echoed("x-step") == ["one"]


async def test_a_plugin_that_hangs_holds_a_request_for_as_long_as_the_patience_lasts(
    tmp_path: Path,
) -> None:
    script = Script(access=[TO_CANARY])

    async def respond(method: str, argument: Any) -> Any:
        if method == "plugin.HandleEvent":
            await asyncio.Event().wait()
        return script.respond(method, argument)

    async with stage(tmp_path, script, plugin_patience_s=1, drain_s=1) as staged:
        await staged.server.__aexit__()
        async with Server(tmp_path / "plugin.sock", respond):
            assert await served_by(staged.port) == "stable"


async def test_every_step_may_arrive_on_another_connection(tmp_path: Path) -> None:
    script = Script(access=[("kong.request.get_method", []), TO_CANARY])
    async with stage(tmp_path, script) as staged:
        await asyncio.gather(served_by(staged.port), served_by(staged.port))
        await staged.server.seen(1 + 2 * 4)
        assert await served_by(staged.port) == "canary"
        await staged.server.seen(1 + 3 * 4)
    of_last_event = staged.server.connections[-4:-1]
    assert len(set(of_last_event)) == 2


async def test_calls_one_after_another_keep_to_one_connection(tmp_path: Path) -> None:
    async with stage(tmp_path, Script(access=[TO_CANARY], log=[])) as staged:
        for _ in range(3):
            assert await served_by(staged.port) == "canary"
        await staged.server.seen(1 + 3 * 3)
    assert set(staged.server.connections) <= {1, 2}


async def test_requests_at_the_same_time_start_one_instance(tmp_path: Path) -> None:
    script = Script(access=[TO_CANARY])
    async with stage(tmp_path, script) as staged:
        names = await asyncio.gather(*(served_by(staged.port) for _ in range(20)))
    assert set(names) == {"canary"}
    assert len(script.configs) == 1


async def test_set_target_goes_straight_there_with_the_bare_host(tmp_path: Path) -> None:
    script = Script()
    async with stage(tmp_path, script, resolve={"orders.test": ("127.0.0.1", None)}) as staged:
        script.access = [("kong.service.set_target", ["127.0.0.1", staged.canary_port])]
        reply = await fetch(staged.port, "/orders/1")
    assert reply.one("X-Served-By") == "canary"
    assert reply.echoed("Host") == ["127.0.0.1"]


async def test_exit_answers_the_client_and_the_log_phase_still_runs(tmp_path: Path) -> None:
    leave: PdkCall = ("kong.response.exit", [418, {"message": "short"}, {"X-Left": "yes"}])
    script = Script(access=[leave], log=[("kong.response.get_source", [])])
    async with stage(tmp_path, script) as staged:
        reply = await fetch(staged.port, "/orders/1")
        await staged.server.seen(4)
    assert (reply.status, reply.json(), reply.one("X-Left")) == (418, {"message": "short"}, "yes")
    assert script.results == {"access": [], "log": ["exit"]}


async def test_headers_set_in_access_survive_the_upstreams(tmp_path: Path) -> None:
    script = Script(
        access=[
            ("kong.response.add_header", ["Set-Cookie", "a=1"]),
            ("kong.response.add_header", ["Set-Cookie", "b=2"]),
            ("kong.response.set_header", ["X-Canary-Variant", "stable"]),
            ("kong.response.set_headers", [{"X-Number": 5, "X-Gone": "yes"}]),
            ("kong.response.clear_header", ["x-gone"]),
        ]
    )
    async with stage(tmp_path, script) as staged:
        reply = await fetch(staged.port, "/orders/1")
    assert reply.all("Set-Cookie") == ["a=1", "b=2"]
    assert (reply.one("X-Canary-Variant"), reply.one("X-Number")) == ("stable", "5")
    assert reply.all("X-Gone") == []


async def test_request_headers_are_set_added_and_cleared(tmp_path: Path) -> None:
    script = Script(
        access=[
            ("kong.service.request.clear_header", ["X-Secret"]),
            ("kong.service.request.add_header", ["X-Many", "two"]),
            ("kong.service.request.set_header", ["X-Flag", True]),
            ("kong.service.request.set_headers", [{"X-A": "a", "X-Dropped": None}]),
        ]
    )
    async with stage(tmp_path, script) as staged:
        given = [("X-Secret", "s"), ("X-Many", "one")]
        reply = await fetch(staged.port, "/orders/1", headers=given)
    assert reply.echoed("X-Secret") == []
    assert reply.echoed("X-Many") == ["one", "two"]
    assert (reply.echoed("X-Flag"), reply.echoed("X-A")) == (["true"], ["a"])
    assert reply.echoed("X-Dropped") == []


async def test_header_bytes_that_are_not_utf_8_pass_in_every_direction(tmp_path: Path) -> None:
    script = Script(
        access=[
            ("kong.request.get_header", ["x-name"]),
            ("kong.response.set_header", ["X-From-Bytes", b"J\xf6rg"]),
            ("kong.service.request.set_header", ["X-From-Plugin", b"J\xf6rg"]),
        ]
    )
    async with stage(tmp_path, script) as staged:
        reply = await fetch(staged.port, "/orders/1", headers=[("X-Name", "J\xf6rg")])
    assert script.results["access"][0] == "J\udcf6rg"
    assert reply.one("X-From-Bytes") == "J\xf6rg"
    assert reply.echoed("X-Name") == ["J\udcf6rg"]
    assert reply.echoed("X-From-Plugin") == ["J\udcf6rg"]


async def test_get_headers_shows_a_hundred_unless_told_otherwise(tmp_path: Path) -> None:
    script = Script(access=[("kong.request.get_headers", []), ("kong.request.get_headers", [1000])])
    async with stage(tmp_path, script) as staged:
        await fetch(staged.port, "/orders/1", headers=[(f"X-{n}", "v") for n in range(150)])
    assert [len(result) for result in script.results["access"]] == [100, 151]
    assert script.steps == ["plugin.StepMultiMap", "plugin.StepMultiMap"]


async def test_the_log_phase_knows_what_it_may_know(tmp_path: Path) -> None:
    script = Script(
        access=[
            ("kong.ctx.shared.set", ["variant", {"name": "canary"}]),
            ("kong.service.request.set_header", ["X-Canary-Variant", "canary"]),
            ("kong.nginx.set_ctx", ["mark", 7]),
            ("kong.log.set_serialize_value", ["canary.variant", "canary"]),
        ],
        log=[
            ("kong.ctx.shared.get", ["variant"]),
            ("kong.request.get_header", ["x-canary-variant"]),
            ("kong.response.get_status", []),
            ("kong.response.get_source", []),
            ("kong.router.get_service", []),
            ("kong.nginx.get_ctx", ["mark"]),
            ("kong.client.get_consumer", []),
            ("kong.response.get_headers", []),
            ("kong.log.serialize", []),
        ],
    )
    async with stage(tmp_path, script) as staged:
        await fetch(staged.port, "/orders/1")
        await staged.server.seen(1 + 5 + 10)
    shared, header, status, source, service, mark, consumer, headers, serialized = script.results[
        "log"
    ]
    assert (shared, header, status, source) == ({"name": "canary"}, "canary", 200, "service")
    assert (service["name"], mark, consumer) == ("orders", 7, None)
    assert headers["x-served-by"] == ["stable"]
    assert '"canary":{"variant":"canary"}' in serialized


@pytest.mark.parametrize(
    "method",
    ["kong.request.get_method", "kong.response.set_header", "kong.client.get_forwarded_ip"],
)
async def test_other_calls_end_the_log_phase_unheard(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(log=[(method, ["x", "y"])])
    async with stage(tmp_path, script) as staged:
        assert await served_by(staged.port) == "stable"
        await staged.server.seen(3)
    assert len(staged.server.calls) == 3
    assert "cannot be called in log phase" in caplog.text


async def test_a_reload_starts_new_instances_and_closes_none(tmp_path: Path) -> None:
    script = Script(access=[TO_CANARY])
    async with stage(tmp_path, script) as staged:
        assert await served_by(staged.port) == "canary"
        assert await staged.gateway.reload()
        assert await served_by(staged.port) == "canary"
    assert [instance for instance, phase in script.events if phase == "access"] == [0, 1]
    assert "plugin.CloseInstance" not in {call[2] for call in staged.server.calls}


async def test_a_reload_of_an_invalid_file_keeps_the_old_one_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(tmp_path, Script(access=[TO_CANARY])) as staged:
        settings(tmp_path, {"services": [{"name": "x", "url": "http://x.test", "hots": "y"}]})
        assert not await staged.gateway.reload()
        assert await served_by(staged.port) == "canary"
    assert "services[0].hots: unknown field" in caplog.text


async def test_key_auth_says_401_before_the_plugin_and_the_log_phase_runs(tmp_path: Path) -> None:
    script = Script(log=[("kong.response.get_status", [])])
    async with (
        Server(tmp_path / "plugin.sock", script.respond) as server,
        guarded(tmp_path) as running,
    ):
        denied = await fetch(running.port, "/")
        await server.seen(3)
    assert denied.status == 401
    assert denied.json()["message"] == "No API key found in request"
    assert denied.one("WWW-Authenticate") == "Key"
    assert denied.one("Content-Type") == "application/json; charset=utf-8"
    assert script.events == [(0, "log")]
    assert script.results["log"] == [401]


@pytest.mark.parametrize(
    ("target", "headers", "status", "message"),
    [
        ("/", [("apikey", "alice-key")], 200, None),
        ("/?apikey=alice-key", [], 200, None),
        ("/", [("apikey", "wrong")], 401, "Unauthorized"),
        ("/", [("apikey", "a"), ("apikey", "b")], 401, "Duplicate API key found"),
        ("/?apikey", [], 401, "No API key found in request"),
    ],
)
async def test_key_auth_knows_its_consumers(
    tmp_path: Path,
    target: str,
    headers: list[tuple[str, str]],
    status: int,
    message: str | None,
) -> None:
    async with (
        Server(tmp_path / "plugin.sock", Script().respond),
        guarded(tmp_path) as running,
    ):
        reply = await fetch(running.port, target, headers=[*headers, ("X-Consumer-ID", "forged")])
    assert reply.status == status
    assert reply.json().get("message") == message
    if status == 200:
        assert consumer_of(reply) == (["alice"], ["u-42"], 1)


def consumer_of(reply: Reply) -> tuple[list[str], list[str], int]:
    identities = reply.echoed("X-Consumer-ID")
    assert "forged" not in identities
    return (
        reply.echoed("X-Consumer-Username"),
        reply.echoed("X-Consumer-Custom-ID"),
        len(identities),
    )


async def test_the_most_specific_config_wins(tmp_path: Path) -> None:
    script = Script()
    plugin = {"name": PLUGIN}
    routes = [
        {"name": "r", "paths": ["/r"], "plugins": [{**plugin, "config": {"percentage": 1}}]},
        {"name": "s", "paths": ["/s"]},
    ]
    async with upstream(echo) as port, Server(tmp_path / "plugin.sock", script.respond):
        url = f"http://127.0.0.1:{port}"
        own = [{**plugin, "config": {"percentage": 2}}]
        document = {
            "services": [
                {"name": "one", "url": url, "routes": routes, "plugins": own},
                {"name": "two", "url": url, "routes": [{"name": "g", "paths": ["/g"]}]},
            ],
            "consumers": [
                {
                    "username": "alice",
                    "keyauth_credentials": [{"key": "k"}],
                    "plugins": [{**plugin, "config": {"percentage": 4}}],
                }
            ],
            "plugins": [
                {**plugin, "config": {"percentage": 3}},
                {"name": "key-auth", "config": {"anonymous": "nobody"}},
            ],
        }
        async with gateway(tmp_path, document) as running:
            for path in ("/r", "/s", "/g", "/missing"):
                await fetch(running.port, path)
            await fetch(running.port, "/g", headers=[("apikey", "k")])
    assert [config["percentage"] for config in script.configs] == [1, 2, 3, 4]
    keys = [config["__key__"].split(":")[2:5] for config in script.configs]
    assert [[bool(part) for part in key] for key in keys] == [
        [True, False, False],
        [False, True, False],
        [False, False, False],
        [False, False, True],
    ]


async def test_a_request_without_a_route_is_logged_by_global_plugins(tmp_path: Path) -> None:
    script = Script(log=[("kong.response.get_status", [])])
    document = {"plugins": [{"name": PLUGIN}]}
    async with (
        Server(tmp_path / "plugin.sock", script.respond) as server,
        gateway(tmp_path, document) as running,
    ):
        reply = await fetch(running.port, "/nowhere")
        await server.seen(3)
    assert reply.status == 404
    assert script.results["log"] == [404]


@asynccontextmanager
async def guarded(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with key-auth and the plugin in front of an echo."""
    async with upstream(echo) as port:
        document = {
            "services": [
                {
                    "name": "orders",
                    "url": f"http://127.0.0.1:{port}",
                    "routes": [{"name": "all", "paths": ["/"]}],
                }
            ],
            "plugins": [{"name": "key-auth"}, {"name": PLUGIN}],
            "consumers": [
                {
                    "username": "alice",
                    "custom_id": "u-42",
                    "keyauth_credentials": [{"key": "alice-key"}],
                }
            ],
        }
        async with gateway(tmp_path, document) as running:
            yield running


@pytest.mark.parametrize(
    "answer",
    [
        msgpack.packb([1, 999, None, {"Id": 0}]),
        msgpack.packb([0, 1, "plugin.What", []]),
        msgpack.packb([1, 1, None, {"Name": PLUGIN}]),
        msgpack.packb({"not": "an answer"}),
        b"\xc1",
        b"",
    ],
)
async def test_an_answer_that_is_none_starts_no_instance(tmp_path: Path, answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(answer)
        writer.close()

    async with stage(tmp_path, Script()) as staged:
        await staged.server.__aexit__()
        broken = await asyncio.start_unix_server(talk, str(tmp_path / "plugin.sock"))
        reply = await fetch(staged.port, "/orders/1")
        broken.close()
    assert (reply.status, reply.json()) == (500, UNEXPECTED)


async def test_a_request_ends_with_the_configuration_it_began_with(tmp_path: Path) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()
    script = Script(access=[TO_CANARY])

    async def respond(method: str, argument: Any) -> Any:
        if method == "plugin.Step":
            arrived.set()
            await go_on.wait()
        return script.respond(method, argument)

    async with stage(tmp_path, script) as staged:
        await staged.server.__aexit__()
        async with Server(tmp_path / "plugin.sock", respond):
            asking = asyncio.create_task(fetch(staged.port, "/orders/1"))
            await arrived.wait()
            settings(tmp_path, {})
            assert await staged.gateway.reload()
            assert (await fetch(staged.port, "/orders/1")).status == 404
            go_on.set()
            assert (await asking).one("X-Served-By") == "canary"
