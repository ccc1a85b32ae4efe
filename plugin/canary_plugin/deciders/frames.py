"""HTTP/2 frames to and from bytes (RFC 9113, section 4 and 6); knows no stream and does no I/O."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = 9
MAX_PAYLOAD = 16_384
"""The largest payload that a peer may send which was told of no other limit."""
MAX_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = 65_535

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9

ACK = END_STREAM = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20

_SETTING, _NUMBER = struct.Struct(">HI"), struct.Struct(">I")

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream and payload."""


class Setting(IntEnum):
    """The settings that matter here."""

    ENABLE_PUSH = 0x2
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5


CANCEL = 0x8
_ERRORS = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)


class NotHttp2(ConnectionError):  # noqa: N818 - it says what is the matter
    """The peer sent what HTTP/2 does not allow."""


class Reader:
    """Cuts what arrives into frames; keeps at most one that is not whole."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_first = True

    def frames(self, data: bytes) -> Iterator[Frame]:
        """Every frame that is whole by now. Raises NotHttp2."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        try:
            while end - at >= HEAD:
                length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
                kind = data[at + 3]
                if length > MAX_PAYLOAD or (self._is_first and kind != SETTINGS):
                    raise NotHttp2(f"this is no HTTP/2: {data[at : at + 24]!r}")
                stop = at + HEAD + length
                if stop > end:
                    break
                self._is_first = False
                stream = int.from_bytes(data[at + 5 : at + HEAD]) & MAX_WINDOW
                payload = data[at + HEAD : stop]
                flags = data[at + 4]
                at = stop
                yield kind, flags, stream, payload
        finally:
            self._rest = data[at:]


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """A frame as bytes."""
    head = b"%b%c%c%b" % (len(payload).to_bytes(3), kind, flags, stream.to_bytes(4))
    return b"".join((head, payload))


def settings(values: Mapping[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    pairs = (_SETTING.pack(name, value) for name, value in values.items())
    return frame(SETTINGS, 0, 0, b"".join(pairs))


def window_update(stream: int, by: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, _NUMBER.pack(by))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Numbers and values of settings. Raises NotHttp2."""
    if len(payload) % _SETTING.size:
        raise NotHttp2("a SETTINGS frame of a wrong size")
    yield from _SETTING.iter_unpack(payload)


def read_number(payload: bytes, at: int = 0) -> int:
    """The 32-bit number there, without its reserved bit. Raises NotHttp2."""
    if len(payload) < at + _NUMBER.size:
        raise NotHttp2("a frame that is too short")
    found: int = _NUMBER.unpack_from(payload, at)[0]
    return found & MAX_WINDOW


def code_name(payload: bytes, at: int = 0) -> str:
    """The name of the error code there. Raises NotHttp2."""
    code = read_number(payload, at)
    return _ERRORS[code] if code < len(_ERRORS) else f"error code {code}"


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without padding and priority. Raises NotHttp2."""
    if not flags & (PADDED | HAS_PRIORITY):
        return payload
    start, stop = 0, len(payload)
    if flags & PADDED:
        start, stop = 1, stop - (payload[0] if payload else 0)
    if flags & HAS_PRIORITY:
        start += 5
    if start > stop:
        raise NotHttp2("a frame with more padding than payload")
    return payload[start:stop]
