"""What canaryctl takes and writes: shares, moments, words and text that cannot do harm."""

from __future__ import annotations

import click
import pytest
from canary.policy.v1 import policy_pb2
from canaryctl import render, values
from google.protobuf.timestamp_pb2 import Timestamp


@pytest.mark.parametrize(
    ("text", "share"),
    [("5", 5.0), ("0", 0.0), ("100", 100.0), ("0.001", 0.001), (" 12.5 % ", 12.5)],
)
def test_a_percentage_is_read_as_people_write_it(text: str, share: float) -> None:
    assert values.PERCENTAGE.convert(text, None, None) == share


@pytest.mark.parametrize("text", ["", "five", "-1", "100.001", "0.0001", "nan", "inf", "5,5"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        values.PERCENTAGE.convert(text, None, None)


@pytest.mark.parametrize(
    ("share", "text"),
    [(5.0, "5 %"), (0.001, "0.001 %"), (0.1 + 0.2, "0.3 %"), (100.0, "100 %"), (0.0, "0 %")],
)
def test_a_percentage_is_written_without_noise(share: float, text: str) -> None:
    assert render.percent(share) == text


def test_shares_have_no_noise_in_json_either() -> None:
    release = policy_pb2.Release(percentage=0.1 + 0.2)
    assert render.document(release) == {"percentage": 0.3}
    assert render.as_json(render.document(policy_pb2.Release(percentage=5.0))) == (
        '{\n  "percentage": 5\n}'
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z"),
        ("2026-01-31T12:00:00.250Z", "2026-01-31T12:00:00.250Z"),
    ],
)
def test_a_moment_is_written_in_utc(text: str, written: str) -> None:
    assert render.moment(values.MOMENT.convert(text, None, None)) == written


@pytest.mark.parametrize(
    "text", ["soon", "2026-01-31", "2026-01-31T12:00:00", "0001-01-01T00:00:00+14:00"]
)
def test_a_moment_without_an_offset_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        values.MOMENT.convert(text, None, None)


def test_a_moment_that_was_never_set_is_nothing() -> None:
    assert render.moment(Timestamp()) == "-"


def test_words_have_dashes_and_no_prefix() -> None:
    statuses = policy_pb2.ReleaseStatus.DESCRIPTOR
    words = ["in-progress", "paused", "completed", "rolled-back", "abandoned"]
    assert list(render.words_by_value(statuses).values()) == words
    assert [values.value_of(statuses, word) for word in words] == [1, 2, 3, 4, 5]


def test_headers_given_twice_are_joined_as_gateways_do() -> None:
    given = [values.HEADER.convert(text, None, None) for text in ("X-A: 1", "x-a:2", "b:c:d")]
    assert values.joined(given, str.lower) == {"x-a": "1, 2", "b": "c:d"}


@pytest.mark.parametrize("text", ["no mark", ":value", ""])
def test_a_header_needs_a_name_and_a_mark(text: str) -> None:
    with pytest.raises(click.BadParameter):
        values.HEADER.convert(text, None, None)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "1e300", "soon"])
def test_a_timeout_is_above_zero(text: str) -> None:
    with pytest.raises(click.BadParameter):
        values.SECONDS.convert(text, None, None)


def test_a_name_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in render.table(["name"], [["\x1b[31mred\x1b[0m"]])
    assert "[bold]" in render.table(["name"], [["[bold]"]])


def test_a_long_cell_is_never_cut_where_no_terminal_reads() -> None:
    assert "x" * 500 in render.table(["name", "other"], [["x" * 500, "y"]])


def test_columns_that_say_nothing_can_be_left_out() -> None:
    assert render.filled(["a", "b", "c"], [["1", "-", ""], ["2", "", "x"]]) == (
        ["a", "c"],
        [["1", ""], ["2", "x"]],
    )
