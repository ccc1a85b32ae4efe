"""The policies a gateway knows, kept by the policy stream; they outlive the service."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from time import monotonic
from typing import NamedTuple

from canary_engine import reads
from canary_engine.baseline import in_force
from canary_engine.copies import reads_persons
from canary_engine.decide import CompiledPolicy
from canary_engine.model import Policy

from canary_plugin.config import Baseline
from canary_plugin.deciders.protocol import Projection

MAX_COMPILED = 4_096
# Longer than a replica is behind that will catch up.
BELIEVED_AFTER_S = 10.0
NOTHING = Projection(reads.NOTHING, reads.digest(reads.NOTHING))


class _Older(NamedTuple):
    since: float
    policy: Policy | None


class _Ruling(NamedTuple):
    compiled: CompiledPolicy
    projection: Projection


class KnownPolicies:
    """Service key to the stored policy as last heard; None means "there is none".

    Until ``heard_all`` a key that is not here is unknown; after it, it has no policy.

    An older revision than the one here, or none at all, may come from a replica that lags, and
    users must not go back and forth with it. It is believed when nothing newer was heard for
    ``BELIEVED_AFTER_S``: then the store itself was set back. ``clock`` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._stored: dict[str, Policy | None] = {}
        self._older: dict[str, _Older] = {}
        self._is_complete = False
        self._compiled: OrderedDict[tuple[str, str], _Ruling] = OrderedDict()
        # Service key to those of its compiled policies that read persons, by baseline hash. Few
        # do, and every request asks: the others must not pay for it.
        self._on_persons: dict[str, dict[str, CompiledPolicy]] = {}

    def __len__(self) -> int:
        return sum(policy is not None for policy in self._stored.values())

    def heard(self, service_key: str, policy: Policy | None) -> None:
        """Take over what the service says, unless it is older than what is here."""
        if _revision(policy) >= self.revision(service_key):
            self._take_over(service_key, policy)
            return
        before = self._older.get(service_key)
        since = before.since if before is not None else self._clock()
        self._older[service_key] = _Older(since, policy)

    def revision(self, service_key: str) -> int:
        """The revision here; 0 for none."""
        return _revision(self._stored.get(service_key))

    @property
    def has_heard_older(self) -> bool:
        """Whether something older than what is here was heard and is not believed yet."""
        if self._older:
            self._believe_older()
        return bool(self._older)

    def _take_over(self, service_key: str, policy: Policy | None) -> None:
        self._older.pop(service_key, None)
        self._stored[service_key] = policy
        for key in [key for key in self._compiled if key[0] == service_key]:
            del self._compiled[key]
        self._on_persons.pop(service_key, None)

    def heard_all(self, service_keys: Collection[str]) -> None:
        """These are all the service has; what is held of others is forgotten."""
        for service_key in set(self._stored).difference(service_keys):
            self.heard(service_key, None)
        self._is_complete = True

    def is_known(self, service_key: str) -> bool:
        """Whether the service has said what its policy is, or that there is none."""
        return self._is_complete or service_key in self._stored

    def ruling(self, service_key: str, baseline: Baseline | None) -> CompiledPolicy | None:
        """What rules, as far as is known; None before the service was heard."""
        found = self._ruling(service_key, baseline)
        return found.compiled if found is not None else None

    def ruling_on_persons(
        self, service_key: str, baseline: Baseline | None
    ) -> CompiledPolicy | None:
        """What rules, if it was asked for before and may need what is known of the user."""
        found = self._on_persons.get(service_key)
        return found.get(baseline.hash if baseline else "") if found else None

    def projection(self, service_key: str, baseline: Baseline | None) -> Projection:
        """The reads of what rules; before the service was heard, a guess from the baseline.

        A wrong guess costs a second question, never a wrong decision: the service compares
        digests.
        """
        ruling = self._ruling(service_key, baseline)
        if ruling is not None:
            return ruling.projection
        if baseline is None:
            return NOTHING
        guess = reads.of(baseline.policy)
        return Projection(guess, reads.digest(guess), baseline.policy.identity.user_id_header)

    def _ruling(self, service_key: str, baseline: Baseline | None) -> _Ruling | None:
        if not self.is_known(service_key):
            return None
        if self._older:
            self._believe_older()
        key = (service_key, baseline.hash if baseline else "")
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = self._compile(service_key, baseline)
            if reads_persons(found.compiled.policy):
                self._on_persons.setdefault(service_key, {})[key[1]] = found.compiled
            if len(self._compiled) > MAX_COMPILED:
                (service_key, hash_), _ = self._compiled.popitem(last=False)
                self._on_persons.get(service_key, {}).pop(hash_, None)
        return found

    def _believe_older(self) -> None:
        """Take over what has been said for long enough, and nothing newer."""
        until = self._clock() - BELIEVED_AFTER_S
        for service_key, older in list(self._older.items()):
            if older.since <= until:
                self._take_over(service_key, older.policy)

    def _compile(self, service_key: str, baseline: Baseline | None) -> _Ruling:
        stored = self._stored.get(service_key)
        ruling = in_force(service_key, stored, baseline.policy if baseline else None)
        compiled = CompiledPolicy(ruling.policy)
        projection = Projection(
            compiled.reads,
            compiled.reads_digest,
            compiled.user_id_header,
            # Under a baseline, too, where no override counts.
            (stored or ruling.policy).overrides.header,
            (stored or ruling.policy).overrides.cookie,
        )
        return _Ruling(compiled, projection)


def _revision(policy: Policy | None) -> int:
    return policy.revision if policy is not None else 0
