"""The plots of a report: weight, error rate, latency and evidence over time; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from canary_engine.metric_snapshot import MetricSnapshot, value
from canary_engine.model import BUCKETS
from canary_engine.plan import Limit, Metric
from canary_engine.record import Point

from canary_report.blocks import Figure
from canary_report.plot import Bound, Chart, Line, Mark, Stretch, svg
from canary_report.story import Story
from canary_report.timeline import Happening
from canary_report.words import number

EVIDENCE_COLOURS = 5
_SIDES: tuple[tuple[str, str, Callable[[Point], MetricSnapshot]], ...] = (
    ("canary", "canary", lambda point: point.canary),
    ("control", "control", lambda point: point.control),
    ("chosen otherwise", "chosen", lambda point: point.chosen),
)


def weight_over_time(story: Story, happenings: tuple[Happening, ...]) -> Figure:
    """The weight, what moved it, and the judge's verdicts under it."""
    points = tuple((p.at, p.weight * 100 / BUCKETS) for p in story.record.points)
    chart = _chart(
        story,
        "Weight of the canary over time",
        "%",
        (Line(label="weight of the canary", kind="canary", points=points, is_step=True),),
        marks=tuple(
            Mark(at=h.at, number=h.number, label=f"{h.number}: {h.what}")
            for h in happenings
            if h.number
        ),
        strip=tuple(_verdicts(story.record.points)),
    )
    return Figure(
        title="Weight",
        svg=svg(chart),
        caption="Share of the draw that gets the canary. Numbers are those of the timeline; the "
        "strip under the plot is the judge's verdict: green pass, grey inconclusive, yellow no "
        "data, red fail.",
    )


def metric_over_time(story: Story, metric: Metric, title: str, unit: str) -> Figure:
    """A metric of every side, with the plan's limits."""
    lines = tuple(
        line for line in _sides(story, metric) if any(v is not None for _, v in line.points)
    )
    chart = _chart(story, title, unit, lines, bounds=tuple(_bounds(story, metric, unit)))
    return Figure(
        title=title,
        svg=svg(chart),
        caption="The canary, control (users of the same draw who stayed on stable) and "
        "those who got the canary otherwise. Dashed: limits of the plan.",
    )


def _sides(story: Story, metric: Metric) -> Iterator[Line]:
    for label, kind, side in _SIDES:
        points = tuple((point.at, value(side(point), metric)) for point in story.record.points)
        yield Line(label=label, kind=kind, points=points)


def evidence_over_time(story: Story) -> Figure:
    """The e-values of the judge's tests, with what each must reach to mean fail."""
    points = story.record.points
    tests = sorted({test for point in points for test in point.e_values})
    lines = tuple(
        Line(
            label=test,
            kind=f"e{index % EVIDENCE_COLOURS}",
            points=tuple((point.at, point.e_values.get(test)) for point in points),
        )
        for index, test in enumerate(tests)
    )
    limits: dict[float, list[str]] = {}
    for found in story.record.findings:
        if found.e_limit is not None:
            limits.setdefault(found.e_limit, []).append(found.metric)
    bounds = tuple(
        Bound(label=f"{', '.join(limits[limit])} fail at {number(limit)}", value=limit)
        for limit in sorted(limits)
    )
    chart = _chart(story, "Evidence against the canary", "", lines, bounds=bounds, is_log=True)
    return Figure(
        title="Evidence against the canary",
        svg=svg(chart),
        caption="How strongly each test says that the canary is worse than control: an e-value of "
        "1 is none; a canary as good as control reaches a limit of e with a chance of at most "
        "1/e, however often one looks.",
    )


def _chart(
    story: Story,
    title: str,
    unit: str,
    lines: tuple[Line, ...],
    *,
    bounds: tuple[Bound, ...] = (),
    marks: tuple[Mark, ...] = (),
    strip: tuple[Stretch, ...] = (),
    is_log: bool = False,
) -> Chart:
    start, end = story.began or story.until, story.ended or story.until
    moments = [point.at for point in story.record.points]
    return Chart(
        title=title,
        unit=unit,
        start=min([start, *moments]),
        end=max([end, *moments]),
        lines=lines,
        bounds=bounds,
        marks=marks,
        strip=strip,
        is_log=is_log,
    )


def _verdicts(points: tuple[Point, ...]) -> Iterator[Stretch]:
    """Stretches in which the verdict stayed the same."""
    start = 0
    for index, point in enumerate(points):
        after = points[min(index + 1, len(points) - 1)]
        if after is point or after.verdict != point.verdict:
            if point.verdict:
                yield Stretch(start=points[start].at, end=after.at, kind=point.verdict)
            start = index + 1


def _bounds(story: Story, metric: Metric, unit: str) -> Iterator[Bound]:
    """What the plan allows: to go on, and at all."""
    if story.plan is None:
        return
    seen: set[float] = set()
    for label, kind, limits in (
        ("rolled back above", "bound", story.plan.rollback.conditions),
        ("goes on below", "mild", story.plan.success),
    ):
        for limit in limits:
            if _is_plain(limit, metric) and limit.max not in seen:
                assert limit.max is not None, "a plain limit has one"
                seen.add(limit.max)
                yield Bound(label=f"{label} {number(limit.max)} {unit}", value=limit.max, kind=kind)


def _is_plain(limit: Limit, metric: Metric) -> bool:
    return limit.metric is metric and limit.max is not None and not limit.of_stable
