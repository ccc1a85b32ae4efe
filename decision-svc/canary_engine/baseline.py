"""Which policy rules: the stored one while a release is in force, else the gateway's baseline."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from canary_engine.model import Compatibility, Policy, VersionStatus

BASELINE_ID = "baseline"
"""The id of a baseline's release, which its outcomes are told under."""


class InForce(NamedTuple):
    """The policy that rules and, for people, why."""

    policy: Policy
    is_baseline: bool
    why: str


def in_force(service_key: str, stored: Policy | None, baseline: Policy | None) -> InForce:
    """The policy that rules for gateways with ``baseline`` (None: they declare none).

    Under a baseline the stored stable version still says where stable requests go, so that
    a promoted version stays promoted; and clients of deprecated API versions are told so.
    """
    release = stored.release if stored else None
    if stored is not None and release is not None and release.is_in_force:
        state = "halted" if release.halted else release.status
        return InForce(stored, False, f"release {release.id} is {state}")
    last = f"release {release.id} is {release.status}" if release else "no release was started"
    if baseline is None:
        why = f"{last}, and without a gateway's baseline everybody gets stable"
        return InForce(stored or Policy(service_key=service_key), False, why)
    stable = stored.version_with(VersionStatus.STABLE) if stored else None
    if stable is not None and baseline.version_named(stable.version) is None:
        others = (v for v in baseline.versions if v.status is not VersionStatus.STABLE)
        baseline = replace(baseline, versions=(*others, stable))
    if stored is not None and baseline.compatibility == Compatibility():
        # The rules are about the versions of releases, not about a gateway's own canary.
        baseline = replace(baseline, compatibility=replace(stored.compatibility, rules=()))
    if stored is not None and stored.shadow is not None:
        baseline = replace(baseline, shadow=stored.shadow)
    return InForce(baseline, True, f"{last}, so the gateway's declared baseline rules")
