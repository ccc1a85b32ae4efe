"""Requests that nobody should send: stable or right, never an error of ours."""

from __future__ import annotations

import socket

import pytest
from dev_stack.stack import Stack
from support.stack import PATIENCE_S

HOSTILE = {
    "bytes that are no UTF-8 in a header": b"x-user-id: \xff\xfe\x80\r\n",
    "bytes that are no UTF-8 in the rule's header": b"x-canary-test: \xff\r\n",
    "Chinese in UTF-8": "x-user-id: 张三\r\n".encode(),
    "a cookie without anything": b"cookie: ;;;=;==;yyc3_canary\r\n",
    "a cookie with a quote that never ends": b'cookie: yyc3_canary="enabled\r\n',
    "a cookie of 6 KB": b"cookie: canary_id=" + b"x" * 6_000 + b"\r\n",
    "two cookie headers": b"cookie: a=b\r\ncookie: yyc3_canary=enabled\r\n",
    "no address in X-Forwarded-For": b"x-forwarded-for: not-an-address, , 999.1.1.1\r\n",
    "a thousand hops": b"x-forwarded-for: " + b"10.0.0.1, " * 400 + b"10.0.0.1\r\n",
    "IPv6 with a zone": b"x-forwarded-for: fe80::1%eth0\r\n",
    "ninety headers": b"".join(b"x-h%d: v\r\n" % n for n in range(90)),
    "the same header fifty times": b"x-user-id: u\r\n" * 50,
    "an empty user id": b"x-user-id:\r\n",
    "an odd cookie name": b"cookie: \x01\x02=3; yyc3_canary=enabled\r\n"[:8] + b"a b=c\r\n",
}


@pytest.mark.parametrize("lines", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_request_is_answered_by_an_upstream(stack: Stack, lines: bytes) -> None:
    host, port = stack.gateway.address.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(
            b"GET /api/v1/x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n" + lines + b"\r\n"
        )
        with connection.makefile("rb") as answer:
            status = answer.readline()
            body = answer.read()
    assert status.split()[1] == b"200", status + body
    assert b'"version"' in body
