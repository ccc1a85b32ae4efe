"""nginx's lines: what they say, and that nothing which arrives is an error."""

from __future__ import annotations

import pytest
from canary_plugin.outcomes.lines import (
    LOG_FORMAT,
    Line,
    access_log,
    from_serialized,
    parse,
)
from hypothesis import example, given
from hypothesis import strategies as st

HEAD = b"<190>Nov 23 21:36:22 canary: "
GOOD = HEAD + b'200 0.012 "0.011" "0123456789abcdef"'


def test_a_line_says_status_times_and_decision() -> None:
    assert parse(GOOD) == Line(200, 12_000, 11_000, "0123456789abcdef")


# As a real Kong 3.9.1 sent them.
@pytest.mark.parametrize(
    ("said", "line"),
    [
        (b'404 0.001 "-" "-"', Line(404, 1_000, None, "")),
        (b'502 0.004 "0.000, 0.000, 0.001" "-"', Line(502, 4_000, 1_000, "")),
        (b'200 1.500 "0.500 : 0.900" "ab"', Line(200, 1_500_000, 1_400_000, "ab")),
        (b'504 60.001 "-, 60.000" "ab"', Line(504, 60_001_000, 60_000_000, "ab")),
        (
            b'404 0.001 "-" "a\\x22b\\x5Cc \\xC3\\xA9"',
            Line(404, 1_000, None, r"a\x22b\x5Cc \xC3\xA9"),
        ),
        (b'404 0.001 "-" "a, b"', Line(404, 1_000, None, "a, b")),
        (b'000 0.000 "-" ""', Line(0, 0, None, "")),
    ],
)
def test_every_kind_of_line_is_understood(said: bytes, line: Line) -> None:
    assert parse(HEAD + said) == line


def test_days_below_ten_are_padded() -> None:
    assert parse(GOOD.replace(b"Nov 23", b"Dec  1")) == parse(GOOD)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0",
        GOOD[:-1],
        GOOD + b" ",
        GOOD + GOOD,
        GOOD.replace(b"canary: ", b"nginx: "),
        GOOD.replace(b"200", b"20"),
        GOOD.replace(b"0.012", b"-1.012"),
        GOOD.replace(b"0.012", b"0.01"),
        GOOD.replace(b"0.012", b"nan"),
        GOOD.replace(b"0.012", b"9" * 4_000 + b".000"),
        GOOD.replace(b'"0.011"', b'""'),
        GOOD.replace(b'"0.011"', b'", "'),
        HEAD + b'200 0.012 "0.011" "a"b"',
    ],
)
def test_garbage_is_told_from_lines(garbage: bytes) -> None:
    assert parse(garbage) is None


@given(st.binary() | st.binary().map(lambda tail: HEAD + tail))
@example(GOOD)
def test_nothing_that_arrives_is_an_error(datagram: bytes) -> None:
    line = parse(datagram)
    assert line is None or line.request_us >= 0


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_damaged_line_is_no_error_either(position: int, byte: int) -> None:
    damaged = bytearray(GOOD)
    damaged[position] = byte
    parse(bytes(damaged))


def test_the_settings_name_the_same_format() -> None:
    name = LOG_FORMAT.split()[0]
    assert (
        access_log("/run/o.sock") == f"syslog:server=unix:/run/o.sock,nohostname,tag=canary {name}"
    )


SERIALIZED = (
    '{"response":{"status":503},"latencies":{"request":12,"proxy":7,"receive":3,"kong":2},'
    '"request":{"headers":{"x-canary-decision":"ab"}}}'
)


def test_kong_s_log_table_says_the_same() -> None:
    assert from_serialized(SERIALIZED) == Line(503, 12_000, 10_000, "ab")


def test_a_request_that_reached_no_backend_has_no_upstream_time() -> None:
    assert from_serialized(SERIALIZED.replace('"proxy":7', '"proxy":-1')) == Line(
        503, 12_000, None, "ab"
    )


def test_a_request_without_a_label_is_a_line_all_the_same() -> None:
    said = SERIALIZED.replace('"x-canary-decision":"ab"', "")
    assert from_serialized(said) == Line(503, 12_000, 10_000, "")


def test_a_repeated_label_is_nobody_s() -> None:
    said = SERIALIZED.replace('"ab"', '["ab","cd"]')
    assert from_serialized(said) == Line(503, 12_000, 10_000, "ab, cd")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text() | json_values)
@example('{"response":{"status":[]},"latencies":{},"request":{}}')
@example('{"response":{"status":1e999},"latencies":{"request":1},"request":{}}')
@example('{"response":{"status":true},"latencies":{"request":-1},"request":{}}')
def test_no_table_is_an_error(said: object) -> None:
    from_serialized(said)
