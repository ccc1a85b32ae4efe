"""Which policy rules, and why: the release in progress, else what the gateway declares."""

from __future__ import annotations

from dataclasses import replace

import pytest
from canary_engine.baseline import in_force
from canary_engine.model import (
    Backend,
    Policy,
    Release,
    ReleaseStatus,
    Version,
    VersionStatus,
)

STORED_STABLE = Version(
    version="v1", status=VersionStatus.STABLE, backend=Backend(upstream="promoted")
)
DECLARED = Version(version="canary", status=VersionStatus.CANARY)
BASELINE = Policy(
    service_key="shop",
    versions=(DECLARED,),
    release=Release(
        id="baseline",
        version="canary",
        status=ReleaseStatus.IN_PROGRESS,
        share=5_000,
        salt="shop",
    ),
)
WITHOUT_RELEASE = Policy(service_key="shop", revision=3, versions=(STORED_STABLE,))


def with_release(status: ReleaseStatus, *, halted: bool = False) -> Policy:
    release = Release(id="r1", version="v2", status=status, share=10_000, salt="r1", halted=halted)
    canary = Version(version="v2", status=VersionStatus.CANARY)
    return replace(WITHOUT_RELEASE, release=release, versions=(STORED_STABLE, canary))


@pytest.mark.parametrize("baseline", [None, BASELINE])
@pytest.mark.parametrize("halted", [False, True])
@pytest.mark.parametrize("status", [ReleaseStatus.IN_PROGRESS, ReleaseStatus.PAUSED])
def test_a_release_in_force_rules_over_a_baseline_even_when_halted(
    status: ReleaseStatus, halted: bool, baseline: Policy | None
) -> None:
    stored = with_release(status, halted=halted)
    state = "halted" if halted else status
    assert in_force("shop", stored, baseline) == (stored, False, f"release r1 is {state}")


@pytest.mark.parametrize("status", [ReleaseStatus.COMPLETED, ReleaseStatus.ROLLED_BACK])
def test_a_baseline_rules_after_a_release_has_ended(status: ReleaseStatus) -> None:
    found = in_force("shop", with_release(status), BASELINE)
    assert found.is_baseline
    assert found.policy.release == BASELINE.release
    assert found.why == f"release r1 is {status}, so the gateway's declared baseline rules"


def test_a_baseline_rules_before_the_first_release() -> None:
    found = in_force("shop", WITHOUT_RELEASE, BASELINE)
    assert found.is_baseline
    assert found.why == "no release was started, so the gateway's declared baseline rules"


def test_a_baseline_rules_as_it_is_where_nothing_is_stored() -> None:
    assert in_force("shop", None, BASELINE).policy is BASELINE


def test_under_a_baseline_stable_requests_still_go_to_the_stored_stable_version() -> None:
    assert in_force("shop", WITHOUT_RELEASE, BASELINE).policy == replace(
        BASELINE, versions=(DECLARED, STORED_STABLE)
    )


def test_a_stored_stable_version_replaces_one_that_a_baseline_declares() -> None:
    own = Version(version="v0", status=VersionStatus.STABLE)
    baseline = replace(BASELINE, versions=(own, DECLARED))
    found = in_force("shop", WITHOUT_RELEASE, baseline).policy
    assert found.version_with(VersionStatus.STABLE) == STORED_STABLE
    assert found.version_named("canary") == DECLARED


def test_a_baseline_keeps_its_stable_version_where_none_is_stored() -> None:
    own = Version(version="v0", status=VersionStatus.STABLE)
    baseline = replace(BASELINE, versions=(own, DECLARED))
    assert in_force("shop", Policy(service_key="shop"), baseline).policy == baseline


def test_without_a_baseline_the_stored_policy_rules_although_it_has_no_release() -> None:
    why = "no release was started, and without a gateway's baseline everybody gets stable"
    assert in_force("shop", WITHOUT_RELEASE, None) == (WITHOUT_RELEASE, False, why)


def test_without_a_baseline_an_ended_release_still_says_why() -> None:
    stored = with_release(ReleaseStatus.ROLLED_BACK)
    why = "release r1 is rolled-back, and without a gateway's baseline everybody gets stable"
    assert in_force("shop", stored, None) == (stored, False, why)


def test_where_nothing_is_known_an_empty_policy_rules() -> None:
    why = "no release was started, and without a gateway's baseline everybody gets stable"
    assert in_force("shop", None, None) == (Policy(service_key="shop"), False, why)
