"""HTTP/2 frames: however they arrive they are the same frames, and what is none is refused."""

from __future__ import annotations

import pytest
from canary_plugin.deciders import frames
from canary_plugin.deciders.frames import NotHttp2, Reader
from hypothesis import given
from hypothesis import strategies as st

FIRST = (frames.SETTINGS, 0, 0, b"")
some_frames = st.lists(
    st.tuples(
        st.integers(0, 255),
        st.integers(0, 255),
        st.integers(0, frames.MAX_WINDOW),
        st.binary(max_size=300),
    ),
    max_size=8,
)


@given(some_frames, st.lists(st.integers(1, 60), min_size=1))
def test_frames_are_the_same_however_they_are_cut(
    sent: list[frames.Frame], cuts: list[int]
) -> None:
    wire = b"".join(frames.frame(*each) for each in [FIRST, *sent])
    reader, found, number = Reader(), list[frames.Frame](), 0
    while wire:
        cut = cuts[number % len(cuts)]
        found += reader.frames(wire[:cut])
        wire, number = wire[cut:], number + 1
    assert found == [FIRST, *sent]


@given(st.binary(min_size=frames.HEAD))
def test_bytes_that_are_no_http2_are_refused_or_wait_for_more(garbage: bytes) -> None:
    if garbage[3] == frames.SETTINGS:
        return
    with pytest.raises(NotHttp2, match="no HTTP/2"):
        list(Reader().frames(garbage))


def test_a_frame_that_is_too_long_is_refused_before_it_has_come() -> None:
    reader = Reader()
    assert list(reader.frames(frames.frame(*FIRST))) == [FIRST]
    with pytest.raises(NotHttp2):
        list(reader.frames((frames.MAX_PAYLOAD + 1).to_bytes(3) + bytes(6)))


@pytest.mark.parametrize(
    ("flags", "payload", "found"),
    [
        (0, b"abc", b"abc"),
        (frames.PADDED, b"\x02abc\0\0", b"abc"),
        (frames.HAS_PRIORITY, b"\0\0\0\0\x10abc", b"abc"),
        (frames.PADDED | frames.HAS_PRIORITY, b"\x01\0\0\0\0\x10abc\0", b"abc"),
        (frames.PADDED, b"\0", b""),
    ],
)
def test_padding_and_priority_are_taken_off(flags: int, payload: bytes, found: bytes) -> None:
    assert frames.unpadded(flags, payload) == found


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x04abc"])
def test_more_padding_than_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(NotHttp2):
        frames.unpadded(frames.PADDED, payload)


@pytest.mark.parametrize("payload", [b"", b"\0\0\0"])
def test_numbers_that_are_cut_short_are_refused(payload: bytes) -> None:
    with pytest.raises(NotHttp2):
        frames.code_name(payload)


def test_error_codes_have_names_and_those_from_the_future_a_number() -> None:
    assert frames.code_name((frames.CANCEL).to_bytes(4)) == "CANCEL"
    assert frames.code_name((99).to_bytes(4)) == "error code 99"


def test_settings_are_read_as_they_were_written() -> None:
    wire = frames.settings({frames.Setting.ENABLE_PUSH: 0, frames.Setting.MAX_FRAME_SIZE: 20_000})
    assert list(frames.read_settings(wire[frames.HEAD :])) == [(2, 0), (5, 20_000)]
    with pytest.raises(NotHttp2):
        list(frames.read_settings(b"\0\1"))
