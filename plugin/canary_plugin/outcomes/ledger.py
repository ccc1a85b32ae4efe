"""Which decisions await their outcome: each settles once, or is lost and counted as that.

Whether a line got lost cannot be seen where it got lost: nginx drops what the socket does not take,
and tells nobody. But every labelled request was labelled by this process, so it knows what it is to
hear of. A decision's id is random, so nobody can settle one that is not theirs, and a label that a
client wrote on a request which this plugin never saw (no route, no plugin there, refused before)
counts for nothing.

Where this errs: a request that takes longer than the grace time counts as lost and, when its line
comes after all, as foreign; and so does what was in flight when this process began.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from canary_engine.outcomes import Labels

from canary_plugin.ids import Ids
from canary_plugin.outcomes.aggregate import Aggregate, Uncounted
from canary_plugin.outcomes.lines import Line, parse
from canary_plugin.troubles import Troubles

# Longer than Kong waits for a backend, some 60 s a try.
GRACE_S = 120.0
MAX_AWAITED = 100_000

_new_id = Ids(8)


Expect = Callable[[Labels], str]
"""Awaits the outcome of a request; the id that travels with it."""


def expect_nothing(_: Labels) -> str:
    """Nobody listens; the id is for people."""
    return _new_id()


class _Awaited(NamedTuple):
    labels: Labels
    since: float


class Ledger:
    """Decisions by id until their outcome is heard. ``clock`` gives seconds and only grows."""

    def __init__(
        self,
        aggregate: Aggregate,
        troubles: Troubles,
        clock: Callable[[], float],
        *,
        grace_s: float = GRACE_S,
        max_awaited: int = MAX_AWAITED,
    ) -> None:
        self._aggregate, self._troubles, self._clock = aggregate, troubles, clock
        self._grace_s, self._max_awaited = grace_s, max_awaited
        self._awaited: OrderedDict[str, _Awaited] = OrderedDict()

    def __len__(self) -> int:
        return len(self._awaited)

    def expect(self, labels: Labels) -> str:
        """See Expect."""
        id_ = _new_id()
        self._awaited[id_] = _Awaited(labels, self._clock())
        if len(self._awaited) > self._max_awaited:
            self._lose_oldest()
        return id_

    def hear(self, datagram: bytes) -> None:
        """Count what a datagram says."""
        self.settle(parse(datagram))

    def settle(self, line: Line | None) -> None:
        """Count the outcome of the decision that a line names; None is garbage."""
        if line is None:
            self._aggregate.skip(Uncounted.GARBAGE)
            return
        if not line.decision:
            self._aggregate.skip(Uncounted.UNLABELLED)
            return
        awaited = self._awaited.pop(line.decision, None)
        if awaited is None:
            self._aggregate.skip(Uncounted.FOREIGN)
            return
        self._aggregate.count(awaited.labels, line.status, line.request_us, line.upstream_us)

    def expire(self) -> None:
        """Give up those that have waited for the grace time."""
        until = self._clock() - self._grace_s
        while self._awaited and next(iter(self._awaited.values())).since <= until:
            self._lose_oldest()

    def give_up(self) -> None:
        """Nobody will listen any more: what is awaited now is lost."""
        while self._awaited:
            self._lose_oldest()

    def _lose_oldest(self) -> None:
        _, awaited = self._awaited.popitem(last=False)
        self._aggregate.lose(awaited.labels)
        self._troubles.count("outcome-lost", "the gateway told nothing of a labelled request")
