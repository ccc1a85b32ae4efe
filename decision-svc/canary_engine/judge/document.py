"""Evidence and breaches as plain JSON: what is written and read again is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from canary_engine.errors import InvalidEvidence
from canary_engine.histogram import Histogram
from canary_engine.judge.breaches import Breach
from canary_engine.judge.dispersion import Dispersion
from canary_engine.judge.evidence import Counts, Evidence, Track
from canary_engine.judge.measures import Measure
from canary_engine.judge.process import Mixture, Process
from canary_engine.judge.traffic import MIXTURE, Traffic
from canary_engine.judge.yardstick import Yardstick
from canary_engine.model import Cohort
from canary_engine.plan import Limit, Metric

VERSION = 1


def write(evidence: Evidence) -> dict[str, Any]:
    """The evidence as a document: some KB; 70 with all latencies that can be told apart."""
    return {
        "version": VERSION,
        "until_s": evidence.until_s,
        "tracks": {
            measure.subject.value: _track(measure, track)
            for measure, track in zip(evidence.measures, evidence.tracks, strict=True)
        },
        "yardstick": _yardstick(evidence.yardstick),
        "traffic": {
            "canary": evidence.traffic.canary,
            "both": evidence.traffic.both,
            "expected": evidence.traffic.expected,
            "odds": _process(MIXTURE, evidence.traffic.odds),
        },
    }


def read(document: Mapping[str, Any], measures: tuple[Measure, ...]) -> Evidence:
    """The evidence that ``write`` wrote, to be gone on with by the same measures.

    Raises InvalidEvidence if it is none, or was gathered by others: then somebody changed the plan
    or the product, and only ``begin`` is left.
    """
    try:
        if document["version"] != VERSION:
            raise InvalidEvidence(f"it is of version {document['version']}, not {VERSION}")
        tracks = document["tracks"]
        if [*tracks] != [measure.subject for measure in measures]:
            raise InvalidEvidence(f"it is about {', '.join(tracks)}")
        return Evidence(
            measures=measures,
            tracks=tuple(_read_track(one, tracks[one.subject]) for one in measures),
            yardstick=_read_yardstick(document["yardstick"]),
            traffic=_read_traffic(document["traffic"]),
            until_s=None if document["until_s"] is None else int(document["until_s"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidEvidence(f"it cannot be read: {error!r}") from error


def write_breaches(breaches: Sequence[Breach]) -> list[dict[str, Any]]:
    """The breaches as a list of documents."""
    return [
        {
            "metric": breach.limit.metric.value,
            "name": breach.limit.name,
            "max": breach.limit.max,
            "min": breach.limit.min,
            "of_stable": breach.limit.of_stable,
            "duration": breach.limit.duration,
            "cohort": breach.cohort.value,
            "since_s": breach.since_s,
            "last_s": breach.last_s,
        }
        for breach in breaches
    ]


def read_breaches(documents: Sequence[Mapping[str, Any]]) -> tuple[Breach, ...]:
    """The breaches that ``write_breaches`` wrote. Raises InvalidEvidence if they are none."""
    try:
        return tuple(map(_read_breach, documents))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidEvidence(f"the breaches cannot be read: {error!r}") from error


def _read_breach(document: Mapping[str, Any]) -> Breach:
    limit = Limit(
        metric=Metric(document["metric"]),
        name=str(document["name"]),
        max=None if document["max"] is None else float(document["max"]),
        min=None if document["min"] is None else float(document["min"]),
        of_stable=bool(document["of_stable"]),
        duration=str(document["duration"]),
    )
    return Breach(
        limit=limit,
        cohort=Cohort(document["cohort"]),
        since_s=float(document["since_s"]),
        last_s=float(document["last_s"]),
    )


def _track(measure: Measure, track: Track) -> dict[str, Any]:
    counts = track.counts
    document: dict[str, Any] = {
        "counts": [
            counts.canary,
            counts.canary_requests,
            counts.control,
            counts.control_requests,
            counts.canary_part,
            counts.control_part,
        ],
        "null": _process(measure.mixture, track.null),
        "dispersion": [track.dispersion.squares, track.dispersion.expected],
    }
    if measure.within and track.within:
        document["within"] = _process(measure.within, track.within)
    return document


def _read_track(measure: Measure, document: Mapping[str, Any]) -> Track:
    canary, canary_of, control, control_of, canary_part, control_part = document["counts"]
    squares, expected = document["dispersion"]
    within = measure.within
    return Track(
        counts=Counts(
            canary=int(canary),
            canary_requests=int(canary_of),
            control=int(control),
            control_requests=int(control_of),
            canary_part=float(canary_part),
            control_part=float(control_part),
        ),
        null=_read_process(measure.mixture, document["null"]),
        within=_read_process(within, document["within"]) if within else None,
        dispersion=Dispersion(squares=float(squares), expected=float(expected)),
    )


def _process(mixture: Mixture, process: Process) -> dict[str, Any]:
    return {
        "by": _by(mixture),
        "parts": list(process.parts),
        "unspent": process.unspent,
        "events": process.events,
        "e_value": process.e_value,
        "highest": process.highest,
    }


def _read_process(mixture: Mixture, document: Mapping[str, Any]) -> Process:
    if document["by"] != _by(mixture):
        raise InvalidEvidence("it was gathered for other risks or another margin")
    return Process(
        parts=tuple(float(one) for one in document["parts"]),
        unspent=float(document["unspent"]),
        events=int(document["events"]),
        e_value=float(document["e_value"]),
        highest=float(document["highest"]),
    )


def _by(mixture: Mixture) -> list[float]:
    """All that a process was gathered by: its numbers mean nothing by any other."""
    return [mixture.boundary, mixture.clump, *mixture.risks, *mixture.prior]


def _yardstick(yardstick: Yardstick) -> dict[str, Any]:
    return {
        "limits": list(yardstick.limits),
        "made_from": yardstick.made_from,
        "slots": yardstick.slots,
        "old": _histogram(yardstick.old),
        "young": _histogram(yardstick.young),
    }


def _read_yardstick(document: Mapping[str, Any]) -> Yardstick:
    return Yardstick(
        limits=tuple(int(one) for one in document["limits"]),
        made_from=int(document["made_from"]),
        slots=int(document["slots"]),
        old=_read_histogram(document["old"]),
        young=_read_histogram(document["young"]),
    )


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {"sum_us": histogram.sum_us, "counts": [[at, count] for at, count in histogram]}


def _read_histogram(document: Mapping[str, Any]) -> Histogram:
    counts = {int(at): int(count) for at, count in document["counts"]}
    return Histogram(counts, int(document["sum_us"]))


def _read_traffic(document: Mapping[str, Any]) -> Traffic:
    return Traffic(
        canary=int(document["canary"]),
        both=int(document["both"]),
        expected=float(document["expected"]),
        odds=_read_process(MIXTURE, document["odds"]),
    )
