"""The sides of a release beside each other, metric by metric, and how they differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2
from canary.record.v1 import record_pb2
from canary_engine.metric_snapshot import FIELDS
from canary_engine.plan import UNITS
from canary_engine.reports import MEASURED

from canaryctl.render import NOTHING, moment, section

HEADINGS = ("metric", "canary", "control", "difference", "chosen")
ALONE = (
    "No request of control was told of: a release without a plan, or whose plan compares it with\n"
    "nobody, has no control."
)
_ANSWERS = "answers "
_TOLD = {"requests", *MEASURED}
"""What outcomes tell, and no controller knows better."""
_DIGITS = 6
_CANARY, _CONTROL, _CHOSEN = (
    policy_pb2.COHORT_DRAWN,
    policy_pb2.COHORT_CONTROL,
    policy_pb2.COHORT_CHOSEN,
)


_Sides = dict[int, dict[tuple[str, str], float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One metric; None is not known."""

    metric: str
    unit: str
    canary: float | None
    control: float | None
    chosen: float | None

    @property
    def difference(self) -> float | None:
        """How much more the canary has."""
        if self.canary is None or self.control is None:
            return None
        return self.canary - self.control

    @property
    def difference_percent(self) -> float | None:
        """The same, of what control has; None of nothing."""
        if self.difference is None or not self.control:
            return None
        return 100 * self.difference / abs(self.control)


def lines(answer: admin_pb2.GetMetricsResponse) -> list[Line]:
    """Every metric that anything is known of."""
    return _lines({found.cohort: dict(_values(found.metrics)) for found in answer.cohorts})


def noted_lines(answer: admin_pb2.GetMetricsResponse, point: record_pb2.Point | None) -> list[Line]:
    """What only a controller knows now, such as metrics that it asked Prometheus for."""
    if point is None:
        return []
    known = {line.metric for line in lines(answer)} | _TOLD
    sides = {_CANARY: point.canary, _CONTROL: point.control, _CHOSEN: point.chosen}
    found = _lines({cohort: dict(_values(metrics)) for cohort, metrics in sides.items()})
    return [
        line for line in found if line.metric not in known and not line.metric.startswith(_ANSWERS)
    ]


def _lines(sides: _Sides) -> list[Line]:
    # The order of the first side that knows it; what only others know comes after.
    names = dict.fromkeys(name for side in sides.values() for name in side)
    return [_line(*name, sides) for name in names]


def _line(metric: str, unit: str, sides: _Sides) -> Line:
    canary, control, chosen = (
        sides.get(cohort, {}).get((metric, unit)) for cohort in (_CANARY, _CONTROL, _CHOSEN)
    )
    return Line(metric=metric, unit=unit, canary=canary, control=control, chosen=chosen)


def _values(found: record_pb2.MetricSnapshot) -> Iterator[tuple[tuple[str, str], float]]:
    if found.performance.HasField("requests"):
        yield ("requests", ""), found.performance.requests
    for metric, (part, field) in FIELDS.items():
        message = getattr(found, part)
        if message.HasField(field):
            yield (str(metric), UNITS.get(metric, "")), getattr(message, field)
    for status, number in sorted(found.errors.by_type.items()):
        yield (f"{_ANSWERS}{status}", ""), number
    for name, value in sorted(found.business.feature_usage.items()):
        yield (f"feature-usage {name}", ""), value
    for name, value in sorted(found.custom.items()):
        yield (f"custom {name}", ""), value


def tables(
    service: str,
    window_s: int,
    answer: admin_pb2.GetMetricsResponse,
    point: record_pb2.Point | None = None,
) -> list[str]:
    """The comparison for people: what is counted, and what the controller noted besides."""
    versions = {found.cohort: found.version for found in answer.cohorts}
    title = f"metrics of {service}, release {answer.release_id}, last {window_s} s"
    sides = [f"canary {versions[_CANARY]}"] if _CANARY in versions else []
    sides += [f"control {versions[_CONTROL]}"] if _CONTROL in versions else []
    title += f": {', '.join(sides)}" if sides else ""
    parts = [section(title, HEADINGS, map(_row, lines(answer)))]
    if _CANARY in versions and _CONTROL not in versions:
        parts.append(ALONE)
    if point is not None and (noted := noted_lines(answer, point)):
        title = f"noted by the controller, {moment(point.at)}"
        parts.append(section(title, HEADINGS, map(_row, noted)))
    return parts


def _row(line: Line) -> tuple[str, ...]:
    return (
        line.metric,
        _said(line.canary, line.unit),
        _said(line.control, line.unit),
        _difference(line),
        _said(line.chosen, line.unit),
    )


def _difference(line: Line) -> str:
    if line.difference is None:
        return NOTHING
    text = _said(line.difference, line.unit, sign="+")
    if line.difference_percent is not None:
        text += f" ({line.difference_percent:+.1f} %)"
    return text


def _said(value: float | None, unit: str, sign: str = "") -> str:
    if value is None:
        return NOTHING
    text = f"{value:{sign},.0f}" if abs(value) >= 1_000 else f"{value:{sign}.4g}"
    return f"{text} {unit}".rstrip()


def document(
    service: str,
    window_s: int,
    answer: admin_pb2.GetMetricsResponse,
    point: record_pb2.Point | None = None,
) -> dict[str, Any]:
    """The comparison for scripts; what a controller noted has the time of that."""
    names = {_CANARY: "canary", _CONTROL: "control", _CHOSEN: "chosen"}
    return {
        "service_key": service,
        "window_s": window_s,
        "release_id": answer.release_id,
        "versions": {names[f.cohort]: f.version for f in answer.cohorts if f.cohort in names},
        "metrics": [
            *(_document(line) for line in lines(answer)),
            *(
                {**_document(line), "at": moment(point.at)}
                for line in noted_lines(answer, point)
                if point is not None
            ),
        ],
    }


def _document(line: Line) -> dict[str, Any]:
    numbers = {
        "canary": line.canary,
        "control": line.control,
        "difference": line.difference,
        "difference_percent": line.difference_percent,
        "chosen": line.chosen,
    }
    known = {name: _rounded(value) for name, value in numbers.items() if value is not None}
    return {"metric": line.metric, **({"unit": line.unit} if line.unit else {}), **known}


def _rounded(value: float) -> float:
    rounded = float(f"{value:.{_DIGITS}g}") if abs(value) < 10**_DIGITS else round(value)
    return int(rounded) if float(rounded).is_integer() else rounded
