"""Reports: the whole story in both forms, nobody's words taken for markup, plots that hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from canary_engine.metric_snapshot import Errors, MetricSnapshot
from canary_engine.model import Policy, ReleaseStatus, Variant, Version, VersionStatus
from canary_engine.record import Alert, Event, Finding, Point, ReleaseRecord, Severity
from canary_report.html import as_html
from canary_report.markdown import as_markdown
from canary_report.plot import Bound, Chart, Line, svg
from canary_report.scale import Scale, linear_ticks, log_ticks, time_label, time_ticks
from canary_report.story import Change, Story
from canary_report.timeline import timeline
from canary_report.words import lasting, measured, number, weight
from hypothesis import given
from hypothesis import strategies as st
from support.stories import START, at, completed, rolled_back

HOSTILE = "<script>alert(1)</script> | ` \n# [x](javascript:1) & \x1b[31m \"'"
BARE = Story(
    record=ReleaseRecord(service_key="shop", release_id="r1"),
    policy=Policy(service_key="shop"),
    made_at=START,
)
VOID = frozenset({"meta", "line", "circle", "path", "rect"})


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID or tag == "rect" or tag == "line":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """See HTMLParser."""
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        """See HTMLParser."""
        self.text += data


def tables(markdown: str) -> list[list[str]]:
    """The rows of each table."""
    found: list[list[str]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [rows for rows in found if rows]


# The whole


@pytest.mark.parametrize("story", [rolled_back(), completed(), BARE])
def test_a_page_is_whole_and_needs_nothing_else(story: Story) -> None:
    page = Page(as_html(story))
    assert page.open == []
    loads = {name for _, attributes in page.tags for name in attributes} & {"src", "href"}
    assert loads == set()
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "img", "object"} == set()


@pytest.mark.parametrize("story", [rolled_back(), completed(), BARE])
def test_every_plot_is_an_image_of_its_own(story: Story) -> None:
    plots = re.findall(r'<svg class="chart".*?</svg>', as_html(story))
    assert len(plots) == (0 if story is BARE else 4)
    for plot in plots:
        assert ElementTree.fromstring(plot).attrib["aria-label"]
        assert not re.search(r"nan|inf\b", plot)


@pytest.mark.parametrize("story", [rolled_back(), completed(), BARE])
def test_every_row_of_a_markdown_table_has_its_columns(story: Story) -> None:
    for rows in tables(as_markdown(story)):
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(columns) == 1


@pytest.mark.parametrize("written", [as_html, as_markdown])
def test_both_forms_tell_the_whole_story(written: Callable[[Story], str]) -> None:
    told = re.sub(r"\\(.)", r"\1", written(rolled_back()))
    if written is as_html:
        told = Page(told).text
    for said in (
        "was rolled back after 52 min", "The canary's error rate is 2.31 %, control's 0.52 %",
        "1.9.4 → 2.0.0", "× 4.40 (2.10 to 9.30)", "214", "About 1,843 users got 2.0.0",
        "20,377 users", "dashboards are open", "bob", "weekly release", "webhook qa",
        "raise 15 %: yes after 2 tries", "smoke tests passed", "warning: no data for cpu",
        "over: no data for cpu", "verified", "rolled the release back",
    ):  # fmt: skip
        assert said in told, said
    assert "removed a flag" not in told, "what came after the release is another story"
    assert "set the plan" not in told, "and so is what came before"


def test_a_promoted_release_says_so() -> None:
    assert as_markdown(completed()).startswith("# checkout 2.0.0: promoted\n")


def test_a_release_that_goes_on_says_what_it_waits_for() -> None:
    story = rolled_back()
    assert story.release is not None
    going = replace(story.release, status=ReleaseStatus.IN_PROGRESS, ended_at=None, share=15_000)
    record = replace(story.record, waits_for="approval by somebody", findings=())
    told = as_markdown(replace(story, policy=replace(story.policy, release=going), record=record))
    assert "The release of 2.0.0 is in progress. What it waits for: approval by somebody." in told
    halted = replace(going, halted=True)
    told = as_markdown(replace(story, policy=replace(story.policy, release=halted)))
    assert told.startswith("# checkout 2.0.0: halted\n")


def test_a_policy_of_another_release_says_nothing_of_this_one() -> None:
    story = rolled_back()
    other = replace(story, record=replace(story.record, release_id="r-old"))
    told = as_markdown(other)
    assert told.startswith("# checkout release r-old: not known\n")
    assert "2.0.0 got" not in told
    assert "highest weight:** 15 %" in told


# Words of strangers


def _hostile() -> Story:
    story = rolled_back()
    assert story.release is not None
    version = HOSTILE.replace("\n", " ")
    record = replace(
        story.record,
        service_key=HOSTILE,
        events=(Event(at=at(1), what=HOSTILE, why=HOSTILE),),
        alerts=(Alert(key=HOSTILE, severity=Severity.INFO, title=HOSTILE, since=at(1)),),
        findings=(Finding(metric=HOSTILE, verdict=HOSTILE, test=HOSTILE, why=HOSTILE),),
        points=tuple(replace(p, e_values={HOSTILE: 2.0}, verdict="") for p in story.record.points),
        waits_for=HOSTILE,
        stable_version=HOSTILE,
    )
    changes = (Change(revision=12, actor=HOSTILE, at=at(2), reason=HOSTILE, summary=HOSTILE),)
    release = replace(story.release, version=version)
    return replace(
        story, record=record, changes=changes, policy=replace(story.policy, release=release)
    )


def test_while_it_goes_on_stable_is_known_from_the_policy() -> None:
    before = rolled_back()
    assert before.release is not None
    story = replace(
        before,
        record=replace(before.record, stable_version=""),
        policy=replace(
            before.policy,
            versions=(Version(version="1.9.4", status=VersionStatus.STABLE),),
            release=replace(before.release, status=ReleaseStatus.IN_PROGRESS, ended_at=None),
        ),
    )
    assert "- **version:** 1.9.4 → 2.0.0" in as_markdown(story)


def test_a_share_is_never_drawn_above_all() -> None:
    line = Line(label="weight", kind="canary", points=((START, 50.0), (at(1), 100.0)))
    drawn = svg(Chart(title="w", unit="%", start=START, end=at(1), lines=(line,)))
    assert ">100 %<" in drawn
    assert ">150 %<" not in drawn


def test_a_limit_of_evidence_says_whose_it_is() -> None:
    assert ">errors fail at 200<" in as_html(rolled_back())


@pytest.mark.parametrize("written", [as_html, as_markdown])
def test_errors_of_the_canary_alone_are_told_so_and_no_ratio_is_absurd(
    written: Callable[[Story], str],
) -> None:
    story = rolled_back()
    alone = Finding(metric="errors", test="sequential", verdict="fail", canary=31.7, against=0.0)
    vague = Finding(
        metric="p99", test="sequential", verdict="pass", canary=0.1, against=0.2,
        ratio=0.5, ratio_low=0.0, ratio_high=25_182.98,
    )  # fmt: skip
    told = written(replace(story, record=replace(story.record, findings=(alone, vague))))
    assert "control had none" in told
    assert "× 0.50 (0.00 to more than 1,000)" in told


def test_moments_stand_in_one_line() -> None:
    assert '<td class="t">2026-' in as_html(rolled_back())


def test_nobodys_words_become_markup() -> None:
    html = as_html(_hostile())
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.open == []
    assert "\x1b" not in html
    assert "<script>" in page.text, "it is shown as it is"


def test_nobodys_words_become_markdown() -> None:
    told = as_markdown(_hostile())
    assert "<script>" not in told
    assert re.search(r"(?<!\\)\[x", told) is None
    assert "\x1b" not in told
    for rows in tables(told):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


@given(st.text())
def test_no_text_breaks_a_page(text: str) -> None:
    event = Event(at=at(1), what=text, why=text)
    story = replace(BARE, record=replace(BARE.record, events=(event,), waits_for=text))
    assert Page(as_html(story)).open == []
    as_html(story).encode()
    for rows in tables(as_markdown(story)):
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}) == 1


# The timeline


def test_a_change_that_the_controller_made_is_told_once_with_its_number() -> None:
    told = timeline(rolled_back())
    numbered = [(h.number, h.who, h.what) for h in told if h.number]
    assert numbered == [
        ("1", "ann", "started the release of 2.0.0 at 5 %"),
        ("2", "controller", "set the percentage to 15 %"),
        ("3", "controller", "rolled the release back"),
    ]
    assert [h.at for h in told] == sorted(h.at for h in told)
    assert [h.what for h in told].count("raised") == 0
    assert [h.what for h in told].count("verified") == 1


def test_without_the_changes_the_controllers_events_are_told() -> None:
    told = timeline(replace(rolled_back(), changes=()))
    assert [(h.number, h.what) for h in told if h.number] == [("1", "raised"), ("2", "rolled-back")]


def test_an_alert_that_was_never_due_is_not_told() -> None:
    story = rolled_back()
    pending = Alert(key="k", severity=Severity.INFO, title="pending", since=at(1), due_at=at(99))
    told = timeline(replace(story, record=replace(story.record, alerts=(pending,))))
    assert not any("pending" in h.what for h in told)


# Plots and scales


def test_ticks_are_round_and_hold_what_is_shown() -> None:
    assert linear_ticks(10) == [0, 5, 10]
    assert linear_ticks(0.7) == [0, 0.2, 0.4, 0.6, 0.8]
    assert linear_ticks(0) == [0, 0.5, 1]
    assert log_ticks(0.5, 250) == [0.1, 1, 10, 100, 1000]
    assert log_ticks(1, 1) == [1, 10]


@given(st.floats(1e-9, 1e12), st.floats(1e-6, 1e6), st.floats(1, 1e190))
def test_ticks_are_few_and_reach_far_enough(high: float, low: float, factor: float) -> None:
    for ticks, top in ((linear_ticks(high), high), (log_ticks(low, low * factor), low * factor)):
        assert 2 <= len(ticks) <= 9
        assert ticks[-1] >= top * 0.999
        assert ticks == sorted(ticks)


@pytest.mark.parametrize(
    ("span", "count", "label"),
    [
        (timedelta(minutes=3), 7, "22:00:00"),
        (timedelta(hours=1), 7, "22:00"),
        (timedelta(days=5), 5, "Mar 05"),
    ],
)
def test_times_are_round_and_say_as_much_as_needed(span: timedelta, count: int, label: str) -> None:
    ticks = time_ticks(START, START + span)
    assert len(ticks) == count
    assert time_label(ticks[0], span) == label


def test_a_scale_maps_ends_to_ends_and_never_beyond() -> None:
    even = Scale(low=0, high=10, start=100, end=0)
    assert [even(v) for v in (-5, 0, 5, 10, 99)] == [100, 100, 50, 0, 0]
    powers = Scale(low=0.1, high=10, start=0, end=2, is_log=True)
    assert [powers(v) for v in (0.1, 1, 10)] == pytest.approx([0, 1, 2])


def line(*values: float | None) -> Line:
    return Line(
        label="canary", kind="canary", points=tuple((at(n), v) for n, v in enumerate(values))
    )


def chart(*lines: Line, bounds: tuple[Bound, ...] = (), is_log: bool = False) -> str:
    return svg(
        Chart(
            title="t", unit="%", start=START, end=at(10), lines=lines, bounds=bounds, is_log=is_log
        )
    )


def test_a_gap_breaks_a_line_and_a_single_value_is_a_dot() -> None:
    drawn = chart(line(1, 2, None, 3, 4, math.nan, 5))
    assert drawn.count('<path class="line canary"') == 3
    assert drawn.count('<circle class="dot canary"') == 1


def test_without_values_nothing_is_drawn() -> None:
    assert chart(line(None, None)) == ""
    assert chart() == ""


def test_a_limit_far_above_everything_does_not_flatten_it() -> None:
    drawn = chart(line(0.5, 0.7), bounds=(Bound(label="limit 10 %", value=10),))
    assert "limit 10 %, off the chart" in drawn
    assert '<line class="bound" x1="74"' not in drawn
    near = chart(line(5, 7), bounds=(Bound(label="limit 10 %", value=10),))
    assert '<line class="bound" x1="74"' in near


def test_a_legend_that_is_too_long_goes_on_in_another_row() -> None:
    lines = [replace(line(1, 2), label=f"test number {n}") for n in range(12)]
    drawn = ElementTree.fromstring(chart(*lines))
    labels = [text for text in drawn.iter("text") if text.get("class") == "legend"]
    assert len(labels) == 12
    assert len({text.get("y") for text in labels}) > 1
    _, top, width, _ = map(float, drawn.attrib["viewBox"].split())
    for text in labels:
        assert float(text.attrib["x"]) + 6 * len(text.text or "") < width
        assert float(text.attrib["y"]) > top


@given(st.lists(st.none() | st.floats(), max_size=20), st.booleans())
def test_any_values_can_be_drawn(values: list[float | None], is_log: bool) -> None:
    drawn = chart(line(*values), is_log=is_log)
    if drawn:
        ElementTree.fromstring(drawn)
        assert not re.search(r'="(nan|inf|-inf)', drawn)


def test_values_from_the_record_alone_make_a_report() -> None:
    point = Point(at=at(0), weight=5_000, canary=MetricSnapshot(errors=Errors(rate=0.0)))
    story = replace(BARE, record=replace(BARE.record, points=(point,)))
    assert as_html(story).count('<svg class="chart"') == 2


# Words


def test_numbers_and_times_are_as_people_read_them() -> None:
    assert [number(v) for v in (None, 0.0, 0.5234, 12.345, 1_234.5, 2e9, 1e-5, math.nan)] == [
        "–", "0", "0.523", "12.3", "1,234", "2.0e+09", "1.0e-05", "–",
    ]  # fmt: skip
    assert [weight(w) for w in (0, 1, 12_500, 100_000, 100_001)] == [
        "0 %", "0.001 %", "12.5 %", "100 %", "promotion",
    ]  # fmt: skip
    assert measured("p95-response-time", 250.0) == "250 ms"
    assert measured("throughput", None) == "–"
    spans = [timedelta(seconds=s) for s in (0, 59, 3_661, 90_000)]
    assert [lasting(s) for s in spans] == ["0 s", "59 s", "1 h 1 min", "1 d 1 h"]
    assert lasting(None) == "–"


def test_a_moment_is_told_in_utc() -> None:
    assert datetime(2026, 3, 4, 22, 0, tzinfo=UTC) == START
    assert "2026-03-04 22:52:00" in as_markdown(rolled_back())
    assert rolled_back().exposure[Variant.CANARY] == 1_843
