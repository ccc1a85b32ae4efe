"""The development gateway's access log: what nginx would write, to whoever listens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from canary_plugin.outcomes.lines import LOG_FORMAT, Line, access_log, parse
from dev_gateway.access_log import AccessLog
from dev_gateway.context import RequestContext
from multidict import CIMultiDict


def finished(**values: object) -> RequestContext:
    ctx = RequestContext(
        request_id="id",
        method="GET",
        target="/",
        headers=CIMultiDict(),
        scheme="http",
        host="h",
        port=80,
        http_version="1.1",
        peer_ip="127.0.0.1",
        client_ip="127.0.0.1",
        is_peer_trusted=False,
        request_size=0,
    )
    for name, value in values.items():
        setattr(ctx, name, value)
    return ctx


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "o.sock"


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    with listening(path) as opened:
        yield opened


def listening(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    opened.bind(str(path))
    opened.setblocking(False)
    return opened


def waiting(listener: socket.socket) -> bytes:
    try:
        return listener.recv(9_999)
    except BlockingIOError:
        return b""


@pytest.fixture
def log(path: Path) -> Iterator[AccessLog]:
    made = AccessLog(access_log(str(path)), LOG_FORMAT)
    yield made
    made.close()


def test_the_plugin_understands_what_it_writes(log: AccessLog, listener: socket.socket) -> None:
    headers = CIMultiDict({"X-Canary-Decision": "0011"})
    log(finished(status=503, request_ms=1_012, waiting_ms=900, receive_ms=11, headers=headers))
    assert parse(listener.recv(9_999)) == Line(503, 1_012_000, 911_000, "0011")


def test_what_is_not_there_is_a_dash(log: AccessLog, listener: socket.socket) -> None:
    log(finished(status=404, request_ms=1))
    said = listener.recv(9_999)
    assert said.endswith(b'canary: 404 0.001 "-" "-"')
    assert parse(said) == Line(404, 1_000, None, "")


def test_values_are_escaped_and_joined_as_nginx_does_it(
    log: AccessLog, listener: socket.socket
) -> None:
    headers = CIMultiDict([("x-canary-decision", 'a"b\\c é'), ("x-canary-decision", "\udcff")])
    log(finished(status=404, request_ms=1, headers=headers))
    said = listener.recv(9_999)
    assert said.endswith(rb'"a\x22b\x5Cc \xC3\xA9, \xFF"')
    assert parse(said) is not None


def test_what_a_full_socket_does_not_take_is_gone(log: AccessLog, listener: socket.socket) -> None:
    # A socket holds some hundreds, unless the machine's settings say more.
    for _ in range(20_000):
        log(finished(status=200))
    heard = sum(1 for _ in iter(lambda: waiting(listener), b""))
    assert 0 < heard < 20_000


def test_whoever_listens_later_is_found(log: AccessLog, path: Path) -> None:
    log(finished(status=200))
    with listening(path) as first:
        log(finished(status=201))
        assert b" 201 " in first.recv(9_999)
    with listening(path) as second:
        log(finished(status=202))  # finds that the first is gone
        log(finished(status=203))
        assert b" 203 " in second.recv(9_999)


@pytest.mark.parametrize(
    ("destination", "log_format"),
    [
        ("", LOG_FORMAT),
        ("syslog:server=127.0.0.1:514 canary_outcome", LOG_FORMAT),
        ("syslog:server=unix:/o.sock,nohostname,tag=canary other", LOG_FORMAT),
        (access_log("/o.sock"), "canary_outcome '$body_bytes_sent'"),
        (access_log("/o.sock"), ""),
    ],
)
def test_settings_that_it_cannot_follow_are_refused(destination: str, log_format: str) -> None:
    with pytest.raises(ValueError, match=r"expected|no log format|unknown variable"):
        AccessLog(destination, log_format)
