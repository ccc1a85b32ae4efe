"""The sample version: every request answered, bodies as they arrive, an end without noise."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples/sample_upstream.py"
PATIENCE_S = 10


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    command = [sys.executable, str(SCRIPT), "--listen", "127.0.0.1:0", "--version", "v9.9.9"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        word, _, where = process.stdout.readline().partition(" ")
        assert word == "ready"
        host, _, port = where.strip().partition(":")
        yield host, int(port)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (0, ("", ""))


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE_S)
    yield connection
    connection.close()


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH", "PROPFIND"])
def test_any_method_and_path_is_told_what_arrived(
    client: http.client.HTTPConnection, method: str
) -> None:
    headers = {"Host": "canary.example", "X-Canary-Variant": "canary"}
    client.request(method, "/api/v1/x?y=1", body=b"12345", headers=headers)
    answer = client.getresponse()
    document = json.load(answer)
    assert answer.status == 200
    assert document == {
        "version": "v9.9.9",
        "method": method,
        "path": "/api/v1/x?y=1",
        "host": "canary.example",
        "headers": {
            "host": "canary.example",
            "accept-encoding": "identity",
            "content-length": "5",
            "x-canary-variant": "canary",
        },
        "body_bytes": 5,
    }


def test_a_connection_serves_many_requests(client: http.client.HTTPConnection) -> None:
    client.connect()
    first = client.sock
    for _ in range(3):
        client.request("GET", "/")
        client.getresponse().read()
    assert client.sock is first


@pytest.mark.parametrize("status", [200, 204, 304, 404, 418, 503, 599])
def test_a_status_can_be_asked_for(client: http.client.HTTPConnection, status: int) -> None:
    for path in (f"/status/{status}", f"/api/v1/status/{status}"):
        client.request("GET", path)
        answer = client.getresponse()
        answer.read()
        assert answer.status == status


def test_an_answer_can_be_slow(client: http.client.HTTPConnection) -> None:
    began = time.monotonic()
    client.request("GET", "/slow/120")
    assert client.getresponse().status == 200
    assert time.monotonic() - began >= 0.12


def test_head_is_answered_without_a_body(client: http.client.HTTPConnection) -> None:
    for _ in range(2):
        client.request("HEAD", "/")
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"")


@pytest.mark.parametrize("is_chunked", [False, True])
def test_echo_answers_the_body(client: http.client.HTTPConnection, is_chunked: bool) -> None:
    body = bytes(range(256)) * 4096
    pieces = iter([body[:7], body[7:]]) if is_chunked else body
    client.request("POST", "/echo", body=pieces, encode_chunked=is_chunked)
    answer = client.getresponse()
    assert answer.read() == body
    client.request("GET", "/")
    assert client.getresponse().status == 200


def test_echo_answers_a_piece_before_the_next_one_arrives(address: tuple[str, int]) -> None:
    with socket.create_connection(address, PATIENCE_S) as raw:
        raw.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"5\r\nfirst\r\n", b"6\r\nsecond\r\n", b"0\r\n\r\n"):
            raw.sendall(piece)
            seen = b""
            while not seen.endswith(piece):
                seen += raw.recv(4096)


def test_a_chunked_body_is_counted(client: http.client.HTTPConnection) -> None:
    client.request("PUT", "/", body=iter([b"abc", b"de"]), encode_chunked=True)
    assert json.load(client.getresponse())["body_bytes"] == 5


def test_a_client_that_asks_first_is_told_to_go_on(address: tuple[str, int]) -> None:
    with socket.create_connection(address, PATIENCE_S) as raw:
        raw.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 100 ")
        raw.sendall(b"ab")
        assert raw.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_breaks_off_between_two_requests_makes_no_noise(
    address: tuple[str, int],
) -> None:
    """It would be heard at the end, see the fixture."""
    with socket.create_connection(address, PATIENCE_S) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 200 ")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_body_without_an_end_is_refused(address: tuple[str, int]) -> None:
    with socket.create_connection(address, PATIENCE_S) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n")
        with raw.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 400 ")
            assert b"Content-Length is not a number" in answer.read()
