"""A version to release: an HTTP server that says which version it is and what reached it.

    python3 sample_upstream.py --listen 127.0.0.1:1229 --version v1.2.3

It needs nothing but Python, prints "ready HOST:PORT" when it listens and ends on SIGTERM.
Every path and method gets a JSON answer, except paths that end in

    /status/NNN  answered with this status
    /slow/MS     answered after so many milliseconds
    /echo        answered with the request's body, as it arrives
    /linked      answered with a Link header

It can be a bad version: --fail and --delay-ms say how bad, --only for whom.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

PIECE_BYTES = 64 * 1024
LONGEST_WAIT_MS = 10 * 60 * 1000

# A gateway adds headers of its own to what a client sent; the library refuses over 100.
http.client._MAXHEADERS = 1_000  # type: ignore[attr-defined]

_STATUS = re.compile(r"/status/([2-9]\d\d)$")
_SLOW = re.compile(r"/slow/(\d{1,9})$")
_ECHO = re.compile(r"/echo$")
_LINKED = re.compile(r"/linked$")


@dataclass(frozen=True)
class Fault:
    """What is wrong with the version: a share of failures, a delay, and maybe only for some."""

    share: float = 0.0
    delay_s: float = 0.0
    header: str = ""
    value: str = ""

    def befalls(self, headers: Message) -> bool:
        """Whether a request is one of those."""
        return not self.header or headers.get(self.header) == self.value

    def is_failure(self) -> bool:
        """Whether this one fails."""
        return random.random() < self.share


class BodyError(Exception):
    """It cannot be told where the body ends."""


class Handler(BaseHTTPRequestHandler):
    """One connection, kept alive."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = PIECE_BYTES  # headers and body leave in one packet
    server: Upstream

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def handle_one_request(self) -> None:
        """A client may go away also before it asks."""
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def handle_expect_100(self) -> bool:
        """Ask for the body at once."""
        is_wanted = super().handle_expect_100()
        self.wfile.flush()
        return is_wanted

    def log_message(self, *_: object) -> None:
        """Nothing: the gateway has an access log."""

    def _answer(self) -> None:
        try:
            path = self.path.partition("?")[0]
            if _ECHO.search(path):
                self._echo()
                return
            body_bytes = sum(len(piece) for piece in self._body())
            if slow := _SLOW.search(path):
                time.sleep(min(int(slow[1]), LONGEST_WAIT_MS) / 1_000)
            status = _STATUS.search(path)
            wanted = int(status[1]) if status else 200
            fault = self.server.fault
            if fault.befalls(self.headers):
                if fault.delay_s:  # no time at all still gives the core away
                    time.sleep(fault.delay_s)
                wanted = 500 if fault.is_failure() else wanted
            self._say(wanted, self._seen(body_bytes))
        except BodyError as error:
            self.close_connection = True
            self._say(400, {"version": self.server.version, "error": str(error)})
        except OSError:  # the client went away
            self.close_connection = True

    def _seen(self, body_bytes: int) -> dict[str, object]:
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        return {
            "version": self.server.version,
            "method": self.command,
            "path": self.path,
            "host": headers.get("host", ""),
            "headers": headers,
            "body_bytes": body_bytes,
        }

    def _say(self, status: int, document: dict[str, object]) -> None:
        body = json.dumps(document).encode() + b"\n"
        self.send_response(status)
        if _LINKED.search(self.path.partition("?")[0]):
            self.send_header("Link", '</next>; rel="next"')
        has_body = status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        if has_body:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if has_body and self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _echo(self) -> None:
        length = self.headers.get("Content-Length")
        pieces = self._body()
        self.send_response(200)
        self.send_header(
            "Content-Type", self.headers.get("Content-Type", "application/octet-stream")
        )
        if self._is_chunked():
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", length or "0")
        self.end_headers()
        has_body = self.command != "HEAD"
        for piece in pieces:
            framed = b"%x\r\n%s\r\n" % (len(piece), piece) if self._is_chunked() else piece
            if has_body:
                self.wfile.write(framed)
                self.wfile.flush()
        if has_body and self._is_chunked():
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _is_chunked(self) -> bool:
        return self.headers.get("Transfer-Encoding", "").strip().lower() == "chunked"

    def _body(self) -> Iterator[bytes]:
        """The body in pieces as they arrive. Complains at once, not at the first piece."""
        if self._is_chunked():
            return self._chunks()
        if "Transfer-Encoding" in self.headers:
            raise BodyError("Transfer-Encoding other than chunked")
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()):
            raise BodyError("Content-Length is not a number")
        return self._exactly(int(length))

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length > 0:
            piece = self.rfile.read1(min(length, PIECE_BYTES))
            if not piece:
                raise ConnectionResetError("the body is not whole")
            length -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while size := self._chunk_size():
            yield from self._exactly(size)
            self.rfile.readline(3)
        while self.rfile.readline(PIECE_BYTES).strip():
            pass  # trailers

    def _chunk_size(self) -> int:
        line = self.rfile.readline(PIECE_BYTES).partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", line):
            raise ConnectionAbortedError("a chunk without a size")
        return int(line, 16)


class Upstream(ThreadingHTTPServer):
    """A thread for each connection; none of them outlives the process."""

    request_queue_size = 1024
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, version: str, fault: Fault) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.version, self.fault = version, fault
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """Without the look-up of this machine's name, which may take seconds."""
        TCPServer.server_bind(self)


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--listen", default="127.0.0.1:1229", metavar="HOST:PORT")
    parser.add_argument("--version", default="v1.2.3", help="what every answer says")
    parser.add_argument("--fail", type=float, default=0, metavar="SHARE", help="0 to 1: answer 500")
    parser.add_argument("--delay-ms", type=int, default=0, help="answer so much later")
    parser.add_argument("--only", default="", metavar="HEADER=VALUE", help="only such requests")
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    if not port.isdigit():
        parser.error(f"--listen: expected HOST:PORT, not {options.listen}")
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    name, _, value = options.only.partition("=")
    fault = Fault(options.fail, options.delay_ms / 1_000, name, value)
    with Upstream(host.strip("[]"), int(port), options.version, fault) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        print(f"ready {host}:{upstream.server_address[1]}", flush=True)
        signal.sigwait(ends)
        upstream.shutdown()


if __name__ == "__main__":
    main()
