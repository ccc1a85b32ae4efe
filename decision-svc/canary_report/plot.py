"""Draws charts over time as inline SVG, whose colours are the page's; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from canary_report.scale import (
    Scale,
    linear_ticks,
    log_ticks,
    time_label,
    time_ticks,
    widest,
)
from canary_report.words import in_markup, number

WIDTH, HEIGHT = 860, 250
LEFT, RIGHT, TOP, BOTTOM = 74, 84, 32, 38
ALL_PERCENT = 100.0
_FAR = 4.0
"""A limit so many times above everything that was measured would flatten the rest."""
_LINE_HEIGHT, _ROW_HEIGHT = 14.0, 18
_Entry = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Values over time; None is a gap. ``kind`` names its colour, ``is_step`` holds each value."""

    label: str
    kind: str
    points: tuple[tuple[datetime, float | None], ...]
    is_step: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A horizontal line: a limit. ``kind`` is "bound", or "mild" for one that only holds."""

    label: str
    value: float
    kind: str = "bound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened, with the number under which the timeline tells it."""

    at: datetime
    number: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A coloured stretch under the chart, e.g. a verdict that held."""

    start: datetime
    end: datetime
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn between two moments."""

    title: str
    unit: str
    start: datetime
    end: datetime
    lines: tuple[Line, ...]
    bounds: tuple[Bound, ...] = ()
    marks: tuple[Mark, ...] = ()
    strip: tuple[Stretch, ...] = ()
    is_log: bool = False


def svg(chart: Chart) -> str:
    """The chart, or "" if there is nothing to draw."""
    if not any(value is not None for line in chart.lines for _, value in line.points):
        return ""
    first, last = chart.start.timestamp(), chart.end.timestamp()
    x = Scale(low=first, high=max(last, first + 1), start=LEFT, end=WIDTH - RIGHT)
    ticks = _value_ticks(chart)
    y = Scale(low=ticks[0], high=ticks[-1], start=HEIGHT - BOTTOM, end=TOP, is_log=chart.is_log)
    rows = _legend_rows(chart)
    parts = [
        *_grid(chart, ticks, y),
        *_time_axis(chart, x),
        *_strip(chart, x),
        *_bounds(chart, y),
        *(part for line in chart.lines for part in _line(line, x, y)),
        *_ends(chart, y),
        *_marks(chart, x),
        *_legend(rows),
    ]
    more = (len(rows) - 1) * _ROW_HEIGHT
    return (
        f'<svg class="chart" viewBox="0 {-more} {WIDTH} {HEIGHT + more}" role="img" '
        f'aria-label="{in_markup(chart.title)}">{"".join(parts)}</svg>'
    )


def _value_ticks(chart: Chart) -> list[float]:
    values = [value for line in chart.lines for _, value in line.points]
    if chart.is_log:
        known = [v for v in values if v is not None and 0 < v < math.inf]
        bounds = [bound.value for bound in chart.bounds]
        return log_ticks(max(min([1.0, *known]), 1e-3), max([10.0, *known, *bounds]))
    top = widest(values)
    shown = [bound.value for bound in _near(chart)]
    high = max([top * 1.05, *(value * 1.05 for value in shown)])
    is_share = chart.unit == "%" and max([top, *shown]) <= ALL_PERCENT
    return linear_ticks(min(high, ALL_PERCENT) if is_share else high)


def _near(chart: Chart) -> list[Bound]:
    """The bounds that can be shown without flattening what was measured."""
    if chart.is_log:
        return list(chart.bounds)
    top = widest(value for line in chart.lines for _, value in line.points)
    return [bound for bound in chart.bounds if bound.value <= top * _FAR]


def _grid(chart: Chart, ticks: Sequence[float], y: Scale) -> Iterator[str]:
    unit = f" {chart.unit}" if chart.unit else ""
    for tick in ticks:
        at = y(tick)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield _text(LEFT - 13, at + 4, f"{number(tick)}{unit}", "end")


def _time_axis(chart: Chart, x: Scale) -> Iterator[str]:
    bottom, span = HEIGHT - BOTTOM, chart.end - chart.start
    for tick in time_ticks(chart.start, chart.end):
        at = x(tick.timestamp())
        yield f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield _text(at, HEIGHT - 6, time_label(tick, span), "middle")


def _strip(chart: Chart, x: Scale) -> Iterator[str]:
    top = HEIGHT - BOTTOM + 6
    for stretch in chart.strip:
        start, end = x(stretch.start.timestamp()), x(stretch.end.timestamp())
        yield (
            f'<rect class="v-{stretch.kind}" x="{start:.1f}" y="{top}" '
            f'width="{max(end - start, 3.0):.1f}" height="6"><title>{stretch.kind}</title></rect>'
        )


def _bounds(chart: Chart, y: Scale) -> Iterator[str]:
    for bound in _near(chart):
        at = y(bound.value)
        yield (
            f'<line class="{bound.kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
            f'y1="{at:.1f}" y2="{at:.1f}"/>'
        )


def _line(line: Line, x: Scale, y: Scale) -> Iterator[str]:
    for run in _runs(line):
        places = [(x(at.timestamp()), y(value)) for at, value in run]
        drawn = _steps(places) if line.is_step else places
        path = " ".join(f"{'L' if n else 'M'}{a:.1f} {b:.1f}" for n, (a, b) in enumerate(drawn))
        if line.is_step:
            floor = f"L{drawn[-1][0]:.1f} {y.start} L{drawn[0][0]:.1f} {y.start} Z"
            yield f'<path class="area {line.kind}" d="{path} {floor}"/>'
        yield f'<path class="line {line.kind}" d="{path}"/>'
        if len(run) == 1:
            across, up = places[0]
            yield f'<circle class="dot {line.kind}" cx="{across:.1f}" cy="{up:.1f}" r="2.5"/>'


def _runs(line: Line) -> Iterator[list[tuple[datetime, float]]]:
    """The stretches without gaps."""
    run: list[tuple[datetime, float]] = []
    for at, value in line.points:
        if value is not None and math.isfinite(value):
            run.append((at, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _steps(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    drawn = [places[0]]
    for (_, before), (at, after) in pairwise(places):
        drawn += [(at, before), (at, after)]
    return drawn


def _ends(chart: Chart, y: Scale) -> Iterator[str]:
    """The last value of each line beside it, none over another."""
    lasts = []
    for line in chart.lines:
        known = [value for _, value in line.points if value is not None and math.isfinite(value)]
        if known:
            lasts.append((y(known[-1]), line.kind, known[-1]))
    at = -math.inf
    unit = f" {chart.unit}" if chart.unit else ""
    for place, kind, value in sorted(lasts):
        at = max(place, at + _LINE_HEIGHT)
        yield _text(WIDTH - RIGHT + 8, at + 4, f"{number(value)}{unit}", "start", f"end {kind}")


def _marks(chart: Chart, x: Scale) -> Iterator[str]:
    before = -math.inf
    for mark in chart.marks:
        at = x(mark.at.timestamp())
        yield (
            f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
            f"<title>{in_markup(mark.label)}</title></line>"
        )
        if at - before >= 18:
            yield f'<circle class="mark-dot" cx="{at:.1f}" cy="{TOP}" r="8"/>'
            yield _text(at, TOP + 3.5, mark.number, "middle", "mark-text")
            before = at


def _legend(rows: Sequence[Sequence[_Entry]]) -> Iterator[str]:
    """The rows of the legend, the last above the chart and the others above that."""
    for above, row in enumerate(reversed(rows)):
        at, up = float(LEFT), 10 - above * _ROW_HEIGHT
        for label, kind in row:
            yield f'<line class="{kind}" x1="{at:.1f}" x2="{at + 18:.1f}" y1="{up}" y2="{up}"/>'
            yield _text(at + 24, up + 4, label, "start", "legend")
            at += _width((label, kind))


def _legend_rows(chart: Chart) -> list[list[_Entry]]:
    """What the legend names, in as many rows as that takes."""
    near = _near(chart)
    entries = [(line.label, f"line {line.kind}") for line in chart.lines]
    for bound in chart.bounds:
        off = "" if bound in near else ", off the chart"
        entries.append((f"{bound.label}{off}", bound.kind))
    rows: list[list[_Entry]] = [[]]
    at = float(LEFT)
    for entry in entries:
        if rows[-1] and at + _width(entry) > WIDTH:
            rows.append([])
            at = float(LEFT)
        rows[-1].append(entry)
        at += _width(entry)
    return rows


def _width(entry: _Entry) -> float:
    return 46 + 6.4 * len(entry[0])


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    cls = f' class="{kind}"' if kind else ""
    return f'<text{cls} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{in_markup(text)}</text>'
