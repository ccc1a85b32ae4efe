"""Troubles are counted each time and told once an interval."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
from canary_plugin.troubles import Troubles
from canary_plugin.troubles import log as troubles_log
from hypothesis import given
from hypothesis import strategies as st


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was told; a library that clears up after another test may speak at any time."""
    return [record for record in caplog.records if record.name == troubles_log.name]


@pytest.mark.parametrize("start", [0.0, 0.5, 1e9])
def test_a_trouble_is_told_at_once_and_then_once_an_interval(
    caplog: pytest.LogCaptureFixture, start: float
) -> None:
    clock = Clock(start)
    troubles = Troubles(clock, interval_s=10)
    for _ in range(5):
        troubles.count("timeout", "slow")
    clock.now += 9.9
    troubles.count("timeout", "slow")
    clock.now += 0.2
    troubles.count("timeout", "slower")
    assert troubles.counts == {"timeout": 7}
    assert [record.getMessage() for record in ours(caplog)] == [
        "timeout (1 since last told, 1 in all): slow",
        "timeout (6 since last told, 7 in all): slower",
    ]


def test_each_cause_is_told_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles(Clock())
    for cause in ("timeout", "garbage", "timeout", "garbage"):
        troubles.count(cause, "")
    assert troubles.counts == {"timeout": 2, "garbage": 2}
    assert [record.args[0] for record in ours(caplog)] == ["timeout", "garbage"]  # type: ignore[index]


def test_a_long_detail_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    Troubles(Clock()).count("error", "x" * 10_000)
    (record,) = ours(caplog)
    assert len(record.getMessage()) < 600


@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from("abc")), max_size=60))
def test_no_interval_has_two_lines_of_a_cause_and_no_count_is_lost(
    steps: list[tuple[float, str]],
) -> None:
    clock = Clock()
    troubles = Troubles(clock, interval_s=10)
    with pytest.MonkeyPatch.context() as patch:
        told: list[tuple[str, float, int, int]] = []
        patch.setattr(
            "canary_plugin.troubles.log.warning",
            lambda _, cause, since, total, __: told.append((cause, clock.now, since, total)),
        )
        for wait_s, cause in steps:
            clock.now += wait_s
            troubles.count(cause, "")
    assert sum(troubles.counts.values()) == len(steps)
    for cause in "abc":
        lines = [line[1:] for line in told if line[0] == cause]
        assert bool(lines) == bool(troubles.counts[cause])
        assert all(later[0] - sooner[0] >= 10 for sooner, later in pairwise(lines))
        assert sum(since for _, since, _ in lines) == (lines[-1][2] if lines else 0)
