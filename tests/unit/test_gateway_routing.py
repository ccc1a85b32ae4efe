"""Paths, queries, addresses and the order of routes."""

from collections.abc import Sequence
from typing import Any

import click
import pytest
from dev_gateway.__main__ import read_listen, read_networks, read_override
from dev_gateway.address import forwarded_ip, is_ip, join_host_port, split_host_port
from dev_gateway.context import RequestContext
from dev_gateway.declarative import read_document
from dev_gateway.router import Router, upstream_path
from dev_gateway.uri import QueryValue, escape, normalize, parse_query
from multidict import CIMultiDict


def request(
    target: str = "/",
    *,
    method: str = "GET",
    host: str = "x.test",
    headers: Sequence[tuple[str, str]] = (),
) -> RequestContext:
    return RequestContext(
        request_id="id",
        method=method,
        target=target,
        headers=CIMultiDict([("Host", host), *headers]),
        scheme="http",
        host=host,
        port=8000,
        http_version="1.1",
        peer_ip="127.0.0.1",
        client_ip="127.0.0.1",
        is_peer_trusted=False,
        request_size=0,
    )


def chosen(routes: Sequence[dict[str, Any]], ctx: RequestContext) -> str | None:
    config = read_document({"_format_version": "3.0", "routes": list(routes)}, {})
    match = Router(config.routes).find(ctx, ctx.headers["Host"])
    return None if match is None else match.route.table["name"]


def route(name: str, **matchers: Any) -> dict[str, Any]:
    return {"name": name, **matchers}


ORDER = [
    route("root", paths=["/"]),
    route("api", paths=["/api"]),
    route("api-v1", paths=["/api/v1"]),
    route("regex", paths=["~/api/v\\d+/x$"]),
    route("regex-first", paths=["~/api/v9.*"], regex_priority=5),
    route("posts", paths=["/api"], methods=["POST"]),
    route("host", hosts=["api.test"], paths=["/api"]),
    route("wildcard", hosts=["*.wild.test"], paths=["/api/v1"]),
    route("plain", hosts=["one.wild.test"], paths=["/"]),
    route("header", headers={"X-Tier": ["gold", "~*^plat"]}, paths=["/api"]),
    route("port", hosts=["ported.test:81"], paths=["/"]),
]


@pytest.mark.parametrize(
    ("ctx", "name"),
    [
        (request("/"), "root"),
        (request("/other"), "root"),
        (request("/api"), "api"),
        (request("/apis"), "api"),
        (request("/api/v1/y"), "api-v1"),
        (request("/api/v1/x"), "regex"),
        (request("/api/v1/x/y"), "api-v1"),
        (request("/api/v9/x"), "regex-first"),
        (request("/API"), "root"),
        (request("/a%70i/%76%31"), "api-v1"),
        (request("/x/../api//v1"), "api-v1"),
        (request("/api", method="POST"), "posts"),
        (request("/api", host="API.test:8000"), "host"),
        (request("/api/v1", host="two.wild.test"), "wildcard"),
        (request("/api/v1", host="one.wild.test"), "plain"),
        (request("/api", headers=[("X-Tier", "GOLD")]), "header"),
        (request("/api", headers=[("X-Tier", "platinum")]), "header"),
        (request("/api", headers=[("X-Tier", "tin")]), "api"),
        (request("/", host="ported.test:81"), "port"),
        (request("/", host="ported.test:82"), "root"),
    ],
)
def test_the_most_specific_route_wins(ctx: RequestContext, name: str) -> None:
    assert chosen(ORDER, ctx) == name


def test_among_equals_the_first_declared_wins() -> None:
    assert chosen([route("a", paths=["/x"]), route("b", paths=["/x"])], request("/x")) == "a"


def test_no_match_is_none() -> None:
    assert chosen([route("a", paths=["/x"])], request("/y")) is None


@pytest.mark.parametrize(
    ("base", "path", "strip", "asked", "sent"),
    [
        ("/", "/api", True, "/api", "/"),
        ("/", "/api", True, "/api/x", "/x"),
        ("/", "/api", True, "/apix", "/x"),
        ("/", "/api", False, "/api/x", "/api/x"),
        ("/", "/", True, "/x", "/x"),
        ("/base", "/api", True, "/api", "/base"),
        ("/base", "/api/", True, "/api/", "/base/"),
        ("/base", "/api", True, "/api/x", "/base/x"),
        ("/base", "/api", True, "/apix", "/base/x"),
        ("/base", "/api", False, "/api/x", "/base/api/x"),
        ("/base", "/", False, "/", "/base"),
        ("/base/", "/api", True, "/api", "/base"),
        ("/base/", "/api", True, "/api/x", "/base/x"),
        ("/base/", "/api", False, "/api/x", "/base/api/x"),
        ("/", "~/v(?<n>\\d)".replace("?<", "?P<"), True, "/v1/x", "/x"),
    ],
)
def test_paths_are_joined_as_kongs_v0_does(
    base: str, path: str, strip: bool, asked: str, sent: str
) -> None:
    document = {"_format_version": "3.0", "routes": [{"paths": [path], "strip_path": strip}]}
    match = Router(read_document(document, {}).routes).find(request(asked), "x")
    assert match is not None
    assert upstream_path(match, asked, base) == sent


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("/", "/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/../..", "/"),
        ("//a//b/", "/a/b/"),
        ("/%61", "/a"),
        ("/a%2fb", "/a%2Fb"),
        ("/%2e%2e/x", "/x"),
        ("/%20", "/ "),
        ("/%c3%b6", "/ö"),
        ("/%ff", "/\udcff"),
    ],
)
def test_paths_are_normalised_as_kong_does(raw: str, clean: str) -> None:
    assert normalize(raw) == clean


@pytest.mark.parametrize(
    ("clean", "safe"), [("/a b", "/a%20b"), ("/ö\udcff", "/%C3%B6%FF"), ("/a%2F~", "/a%2F~")]
)
def test_paths_are_escaped_before_they_are_sent(clean: str, safe: str) -> None:
    assert escape(clean) == safe


@pytest.mark.parametrize(
    ("query", "args"),
    [
        ("", {}),
        ("a=1&a=2&b=", {"a": ["1", "2"], "b": ""}),
        ("flag&x=%20+y", {"flag": True, "x": "  y"}),
        ("a&a=1&=x&&", {"a": [True, "1"]}),
        ("n=%ff", {"n": "\udcff"}),
    ],
)
def test_queries_are_read_as_openresty_does(query: str, args: dict[str, QueryValue]) -> None:
    assert parse_query(query) == args


def test_queries_end_at_a_hundred_arguments() -> None:
    assert len(parse_query("&".join(f"a{n}=1" for n in range(150)))) == 100


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("a.test:80", ("a.test", 80)),
        ("a.test", ("a.test", None)),
        ("[::1]:80", ("::1", 80)),
        ("::1", ("::1", None)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
    ],
)
def test_host_and_port_come_apart(value: str, parts: tuple[str, int | None]) -> None:
    assert split_host_port(value) == parts


def test_the_default_port_is_not_written() -> None:
    assert [join_host_port("a", 80), join_host_port("::1", 81)] == ["a", "[::1]:81"]
    assert [is_ip("10.0.0.1"), is_ip("[::1]"), is_ip("a")] == [True, True, False]


@pytest.mark.parametrize(
    ("peer", "values", "is_recursive", "client"),
    [
        ("127.0.0.1", ["203.0.113.9"], False, "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9, 10.0.0.1"], False, "10.0.0.1"),
        ("127.0.0.1", ["203.0.113.9, 10.0.0.1"], True, "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9", "10.0.0.1:5000"], True, "203.0.113.9"),
        ("127.0.0.1", ["nonsense"], False, "127.0.0.1"),
        ("127.0.0.1", [], False, "127.0.0.1"),
        ("192.0.2.1", ["203.0.113.9"], False, "192.0.2.1"),
    ],
)
def test_only_trusted_peers_speak_for_clients(
    peer: str, values: list[str], is_recursive: bool, client: str
) -> None:
    networks = list(read_networks(["127.0.0.1,10.0.0.0/8"]))
    assert forwarded_ip(peer, values, networks, is_recursive=is_recursive) == client


def test_flags_name_addresses() -> None:
    assert read_override("orders-v1:127.0.0.1:9102") == ("orders-v1", ("127.0.0.1", 9102))
    assert read_override("orders-v1:127.0.0.1") == ("orders-v1", ("127.0.0.1", None))
    assert read_override("orders-v1:[::1]:81") == ("orders-v1", ("::1", 81))
    assert read_listen("127.0.0.1:0") == ("127.0.0.1", 0)


@pytest.mark.parametrize("flag", ["orders-v1", "orders-v1:elsewhere", ":127.0.0.1"])
def test_a_flag_without_an_address_is_refused(flag: str) -> None:
    with pytest.raises(click.BadParameter):
        read_override(flag)
