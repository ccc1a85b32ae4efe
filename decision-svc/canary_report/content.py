"""Decides what a report says, in which order; how it looks is for the renderings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from canary_engine.metric_snapshot import MetricSnapshot, value
from canary_engine.model import ReleaseStatus, Variant
from canary_engine.plan import Metric
from canary_engine.record import Finding, Point

from canary_report import figures
from canary_report.blocks import (
    Badge,
    Block,
    Cell,
    Facts,
    Interval,
    Paragraph,
    Report,
    Section,
    Table,
)
from canary_report.story import Story
from canary_report.timeline import Happening, timeline
from canary_report.words import NOTHING, counted, lasting, measured, moment, number, weight

MOST_ROWS = 30
"""How many points a table shows; the plots show all."""

_OUTCOMES = {
    ReleaseStatus.IN_PROGRESS: Badge(word="in progress"),
    ReleaseStatus.PAUSED: Badge(word="paused", kind="warn"),
    ReleaseStatus.COMPLETED: Badge(word="promoted", kind="good"),
    ReleaseStatus.ROLLED_BACK: Badge(word="rolled back", kind="bad"),
    ReleaseStatus.ABANDONED: Badge(word="abandoned", kind="warn"),
}
_VERDICTS = {"pass": "good", "fail": "bad", "error": "warn"}
_GRAVEST = ("fail", "error", "inconclusive")
SEQUENTIAL = "sequential"
"""The judge's test of shares of requests that failed or were late, which are percent."""


def report(story: Story) -> Report:
    """The report of a release, whether it goes on or has ended."""
    happenings = timeline(story)
    outcome = _OUTCOMES[story.status] if story.status is not None else Badge(word="not known")
    if story.release is not None and story.release.halted and story.release.is_in_force:
        outcome = Badge(word="halted", kind="warn")
    return Report(
        title=f"{story.record.service_key} {story.version}",
        outcome=outcome,
        lead=_lead(story, outcome),
        facts=Facts(rows=tuple(_facts(story))),
        sections=tuple(section for section in _sections(story, happenings) if section.blocks),
        footer=f"Release {story.record.release_id}; written {moment(story.made_at)} UTC. "
        "All times are UTC.",
    )


def _lead(story: Story, outcome: Badge) -> str:
    """The whole story in a sentence or two."""
    said = [f"The release of {story.version} is {outcome}."]
    if story.ended is not None:
        took = lasting(story.ended - story.began) if story.began else NOTHING
        said = [f"The release of {story.version} was {outcome} after {took}."]
    if story.status is ReleaseStatus.ROLLED_BACK and story.decisive:
        said += [_sentence(finding.why or finding.metric) for finding in story.decisive]
    elif (last := story.last_change) is not None and last.reason:
        said.append(f"{last.actor} gave as the reason: {last.reason.rstrip('.')}.")
    elif story.ended is None and story.record.waits_for:
        said.append(f"What it waits for: {story.record.waits_for.rstrip('.')}.")
    return " ".join(said)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _facts(story: Story) -> Iterator[tuple[str, str]]:
    yield "service", story.record.service_key
    yield "version", f"{story.stable_version or NOTHING} → {story.version}"
    yield "began", moment(story.began)
    yield "ended", moment(story.ended)
    if story.began and story.ended:
        yield "took", lasting(story.ended - story.began)
    yield "highest weight", weight(story.highest_weight)
    if Variant.CANARY in story.exposure:
        yield "users who got the canary", f"{story.exposure[Variant.CANARY]:,}"
    if (last := story.last_change) is not None:
        yield "ended by", last.actor


def _sections(story: Story, happenings: Sequence[Happening]) -> Iterator[Section]:
    told = tuple(happenings)
    plots = (
        figures.weight_over_time(story, told),
        figures.metric_over_time(story, Metric.ERROR_RATE, "Error rate", "%"),
        figures.metric_over_time(story, Metric.P95_RESPONSE_TIME, "Response time, p95", "ms"),
        figures.evidence_over_time(story),
    )
    drawn = tuple(plot for plot in plots if plot.svg)
    yield Section(title="Evidence", blocks=tuple(_evidence(story)))
    yield Section(title="Who was exposed", blocks=tuple(_exposure(story)))
    nothing = Paragraph(text="No measurements were noted: there is nothing to draw.")
    yield Section(title="How it went", blocks=(*(drawn or (nothing,)), *_points(story)))
    yield Section(title="Gates", blocks=tuple(_gates(story)))
    yield Section(title="Who did what, and why", blocks=tuple(_timeline(told)))
    yield Section(title="Plan", blocks=tuple(_plan(story)))


def _evidence(story: Story) -> Iterator[Block]:
    if not story.record.findings:
        yield Paragraph(text="The judge said nothing of this release.")
        return
    yield Paragraph(text=f"The judge's last word: {story.record.verdict or 'none'}.")
    yield Table(
        headings=(
            "metric", "test", "verdict", "canary", "against", "canary relative to control",
            "e-value", "fails at", "why",
        ),
        rows=tuple(map(_finding, sorted(story.record.findings, key=_gravity))),
        numeric=frozenset({3, 4, 6, 7}),
    )  # fmt: skip


def _gravity(found: Finding) -> int:
    is_grave = found.verdict in _GRAVEST
    return _GRAVEST.index(found.verdict) if is_grave else len(_GRAVEST)


def _finding(found: Finding) -> tuple[Cell, ...]:
    ratio: Cell = number(found.ratio)
    if found.ratio is not None and found.ratio_low is not None and found.ratio_high is not None:
        ratio = Interval(low=found.ratio_low, value=found.ratio, high=found.ratio_high)
    elif found.test == SEQUENTIAL and found.canary and found.against == 0:
        ratio = "control had none"
    return (
        found.metric,
        found.test,
        Badge(word=found.verdict or NOTHING, kind=_VERDICTS.get(found.verdict, "plain")),
        *(_value(found, value) for value in (found.canary, found.against)),
        ratio,
        number(found.e_value),
        number(found.e_limit),
        found.why,
    )


def _value(found: Finding, value: float | None) -> str:
    if found.test == SEQUENTIAL and value is not None:
        return f"{number(value)} %"
    return measured(found.metric, value)


def _exposure(story: Story) -> Iterator[Block]:
    if not story.exposure:
        yield Paragraph(text="How many users it served is not known.")
        return
    canary, stable = (story.exposure.get(v, 0) for v in (Variant.CANARY, Variant.STABLE))
    yield Paragraph(
        text=f"About {counted(canary, 'user')} got {story.version} at least once, and "
        f"{counted(stable, 'user')} got stable meanwhile; one whose variant changed is among both."
    )


def _points(story: Story) -> Iterator[Block]:
    points = _thinned(story.record.points)
    if points:
        yield Table(
            headings=(
                "time", "weight", "verdict", "requests, canary", "errors, canary",
                "errors, control", "p95, canary", "p95, control",
            ),
            rows=tuple(_point(point) for point in points),
            numeric=frozenset({1, 3, 4, 5, 6, 7}),
            folded="The same in numbers",
        )  # fmt: skip


def _point(point: Point) -> tuple[Cell, ...]:
    def said(side: MetricSnapshot, metric: Metric) -> str:
        return measured(metric, value(side, metric))

    requests = point.canary.performance.requests
    return (
        moment(point.at),
        weight(point.weight),
        Badge(word=point.verdict or NOTHING, kind=_VERDICTS.get(point.verdict, "plain")),
        f"{requests:,}" if requests is not None else NOTHING,
        said(point.canary, Metric.ERROR_RATE),
        said(point.control, Metric.ERROR_RATE),
        said(point.canary, Metric.P95_RESPONSE_TIME),
        said(point.control, Metric.P95_RESPONSE_TIME),
    )


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most so many, evenly chosen, with the first, the last and every change of the weight."""
    if len(points) <= MOST_ROWS:
        return list(points)
    every = -(-len(points) // MOST_ROWS)
    kept = {*range(0, len(points), every), len(points) - 1}
    turns = [n for n in range(1, len(points)) if points[n].weight != points[n - 1].weight]
    return [points[n] for n in sorted(kept | set(turns[:MOST_ROWS]))]


def _gates(story: Story) -> Iterator[Block]:
    if story.record.gates:
        yield Table(
            headings=("before", "gate", "name", "state", "since", "waits for"),
            rows=tuple(
                (
                    weight(gate.weight),
                    str(gate.kind),
                    gate.name or NOTHING,
                    Badge(word="open", kind="good") if gate.is_open else Badge(word="shut"),
                    moment(gate.since),
                    gate.waits_for or NOTHING,
                )
                for gate in story.record.gates
            ),
        )
    checklist = story.plan.checklist if story.plan is not None else ()
    ticks = {tick.item: tick for tick in story.release.ticks} if story.release else {}
    if checklist:
        yield Table(
            headings=("checklist", "item", "ticked by", "when"),
            rows=tuple(
                (
                    item.group or NOTHING,
                    item.name,
                    ticks[item.name].by if item.name in ticks else NOTHING,
                    moment(ticks[item.name].at) if item.name in ticks else NOTHING,
                )
                for item in checklist
            ),
        )


def _timeline(happenings: Sequence[Happening]) -> Iterator[Block]:
    if happenings:
        yield Table(
            headings=("#", "time", "who", "what", "why"),
            rows=tuple((h.number, moment(h.at), h.who, h.what, h.why) for h in happenings),
            numeric=frozenset({0}),
        )


def _plan(story: Story) -> Iterator[Block]:
    if story.plan is not None:
        yield Table(
            headings=("weight", "held for", "samples at least", "gates"),
            rows=tuple(
                (
                    weight(step.weight),
                    step.hold,
                    f"{step.min_samples:,}" if step.min_samples else NOTHING,
                    ", ".join(f"{g.kind} {g.name}".strip() for g in step.gates) or NOTHING,
                )
                for step in story.plan.steps
            ),
        )
