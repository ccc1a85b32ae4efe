"""Makes the decisions of one policy: most of them once, when it is compiled."""

from __future__ import annotations

from collections.abc import Callable

from canary_engine.model import Decision, Policy, Reason, Variant, VersionStatus

Measured = Callable[[int, bool], Decision]
"""Makes a decision for which a bucket was looked at, given it and whether a cookie is issued."""

_as_decision = tuple.__new__


class Verdicts:
    """What is the same in every decision of a policy."""

    __slots__ = ("_canary", "_release", "_revision", "_stable")

    def __init__(self, policy: Policy) -> None:
        stable = policy.version_with(VersionStatus.STABLE)
        release = policy.release
        canary = policy.version_named(release.version) if release else None
        self._stable = (stable.version if stable else "", stable.backend if stable else None)
        self._canary = (canary.version if canary else "", canary.backend if canary else None)
        self._release = release.id if release and release.is_in_force else ""
        self._revision = policy.revision

    def plain(
        self, variant: Variant, reason: Reason, matched: str = "", *, issue: bool = False
    ) -> Decision:
        """The decision where no bucket was looked at."""
        version, backend = self._canary if variant is Variant.CANARY else self._stable
        return Decision(
            variant, version, backend, reason, matched, None,
            self._release, self._revision, issue,
        )  # fmt: skip

    def measured(
        self, variant: Variant, reason: Reason, matched: str = "", *, control: bool = False
    ) -> Measured:
        """A function that makes the decision where one was."""
        version, backend = self._canary if variant is Variant.CANARY else self._stable
        release, revision = self._release, self._revision

        def at(bucket: int, issue: bool) -> Decision:
            # Decision(variant, version, ...) would take twice as long.
            return _as_decision(
                Decision,
                (variant, version, backend, reason, matched, bucket,
                 release, revision, issue, False, control, None),
            )  # fmt: skip

        return at
