"""What a source of metrics must do: one call, which never raises and never takes for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from canary_engine.metric_snapshot import MetricSnapshot, with_value
from canary_engine.model import Variant
from canary_engine.plan import Metric, Query

MetricKey = tuple[Metric, str]
"""A metric and, of a custom one, its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is measured: the two versions of one release, over the last ``window_s`` seconds."""

    service_key: str
    release_id: str
    canary_version: str
    stable_version: str
    window_s: int

    def version(self, variant: Variant) -> str:
        """The version that a variant stands for."""
        return self.canary_version if variant is Variant.CANARY else self.stable_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A number that could not be had, and why, in words.

    ``is_empty``: the source answered, and there is nothing to tell, or not yet.
    """

    metric: Metric
    name: str
    variant: Variant
    why: str
    is_empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of both sides; what is not is among the troubles."""

    canary: Mapping[MetricKey, float] = field(default_factory=dict)
    stable: Mapping[MetricKey, float] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()

    def of(self, variant: Variant) -> Mapping[MetricKey, float]:
        """The numbers of one side."""
        return self.canary if variant is Variant.CANARY else self.stable


def onto(snapshot: MetricSnapshot, numbers: Mapping[MetricKey, float]) -> MetricSnapshot:
    """The snapshot with what a source says; the source is asked because it knows better."""
    for (metric, name), number in numbers.items():
        snapshot = with_value(snapshot, metric, name, number)
    return snapshot


class Source(Protocol):
    """Answers the questions of a plan."""

    async def measure(self, target: Target, queries: Sequence[Query]) -> Measured:
        """Both sides' numbers, within the source's deadline.

        Never raises but when it is cancelled: a source that is down, answers late or answers
        nonsense is a trouble for each number that it did not give.
        """
        ...
