"""The policies a gateway knows, and what it reads by them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from canary_engine import parse, reads
from canary_engine.model import Policy, Segment
from canary_plugin.config import Baseline, read
from canary_plugin.deciders import policies as policies_module
from canary_plugin.deciders.policies import BELIEVED_AFTER_S, KnownPolicies

SCOPED = {"__key__": "plugins:canary-release:route:::ws"}


def declared(percentage: float = 5, **config: Any) -> Baseline:
    config = {"percentage": percentage, "canary_upstream": "c", **config}
    found = read(config).baseline("shop")
    assert found is not None
    return found


def stored(percentage: float, status: str = "in-progress") -> Policy:
    release = {"id": "r", "version": "v2", "status": status, "percentage": percentage, "salt": "s"}
    version = {"version": "v2", "status": "canary"}
    return parse.policy({"service_key": "shop", "versions": [version], "release": release})


def test_before_the_service_was_heard_nothing_rules_and_the_baseline_is_the_guess() -> None:
    policies, baseline = KnownPolicies(), declared()
    assert not policies.is_known("shop")
    assert policies.ruling("shop", baseline) is None
    assert policies.projection("shop", baseline).reads == reads.of(baseline.policy)
    assert policies.projection("shop", None).reads == reads.NOTHING


def test_no_policy_at_the_service_is_known_to_be_none() -> None:
    policies, baseline = KnownPolicies(), declared()
    policies.heard("shop", None)
    ruling = policies.ruling("shop", baseline)
    assert policies.is_known("shop")
    assert ruling is not None
    assert ruling.policy == baseline.policy


def test_a_release_rules_over_every_baseline_until_it_ends() -> None:
    policies, first, second = KnownPolicies(), declared(5), declared(6)
    for status, expected in (
        ("in-progress", ["r", "r"]),
        ("completed", ["baseline"] * 2),
        ("paused", ["r", "r"]),
        ("rolled-back", ["baseline"] * 2),
    ):
        policies.heard("shop", stored(50, status))
        found = [policies.ruling("shop", baseline) for baseline in (first, second)]
        assert [f.policy.release.id for f in found if f and f.policy.release] == expected


def test_what_was_compiled_is_kept_until_the_policy_changes() -> None:
    policies, baseline = KnownPolicies(), declared()
    policies.heard("shop", stored(50))
    policies.heard("shop-2", None)
    first, other = policies.ruling("shop", baseline), policies.ruling("shop-2", baseline)
    assert policies.ruling("shop", baseline) is first
    policies.heard("shop", stored(60))
    assert policies.ruling("shop", baseline) is not first
    assert policies.ruling("shop-2", baseline) is other


def on_persons(percentage: float, status: str = "in-progress") -> Policy:
    segment = Segment(name="early", canary_eligible=True, listed=True)
    return replace(stored(percentage, status), segments=(segment,))


def test_a_policy_on_persons_is_found_from_when_it_rules_until_it_does_not() -> None:
    policies, baseline = KnownPolicies(), declared()
    policies.heard("shop", on_persons(50))
    assert policies.ruling_on_persons("shop", baseline) is None, "nobody has asked by it yet"
    for policy, reads_persons in (
        (on_persons(50), True),
        (stored(50), False),
        (on_persons(60), True),
        (on_persons(60, "completed"), False),
        (None, False),
    ):
        policies.heard("shop", policy)
        for declaring in (baseline, None):
            ruling = policies.ruling("shop", declaring)
            expected = ruling if reads_persons else None
            assert policies.ruling_on_persons("shop", declaring) is expected
    assert policies.ruling_on_persons("another", None) is None


def test_compiled_policies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies_module, "MAX_COMPILED", 20)
    policies = KnownPolicies()
    for number in range(30):
        policies.heard(f"shop-{number}", None)
        policies.ruling(f"shop-{number}", None)
    assert len(policies._compiled) == 20
    assert policies.ruling("shop-0", None) is not None


def test_a_baseline_has_the_same_hash_in_every_gateway_and_another_for_another_config() -> None:
    assert declared(5).hash == declared(5.0).hash
    assert declared(5, whitelisted_ips=[]).hash == declared(5).hash
    assert declared(5).hash != declared(6).hash
    assert declared(5, salt="x").hash != declared(5).hash


def test_the_salt_is_the_service_key_unless_given() -> None:
    for config, salt in ({}, "shop"), ({"salt": "spring"}, "spring"):
        release = declared(5, **config).policy.release
        assert release is not None
        assert release.salt == salt


def test_a_config_without_percentage_and_rules_declares_nothing() -> None:
    assert read(SCOPED | {"upstream_host_header": "h", "deadline_ms": 7}).baseline("shop") is None
    assert read(SCOPED | {"whitelisted_ips": [], "whitelisted_headers": {}}).baseline("k") is None


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def at(revision: int) -> Policy:
    return replace(stored(50), revision=revision)


def test_an_older_revision_is_believed_when_nothing_newer_is_heard_for_a_while() -> None:
    clock = Clock()
    policies = KnownPolicies(clock)
    policies.heard("shop", at(7))
    for older in (at(6), None):
        policies.heard("shop", older)
        clock.now += BELIEVED_AFTER_S / 3
        assert policies.ruling("shop", None) is not None
        assert policies.revision("shop") == 7
    policies.heard("shop", at(5))
    clock.now += BELIEVED_AFTER_S / 3 + 1
    assert policies.ruling("shop", None) is not None
    assert policies.revision("shop") == 5


def test_an_older_revision_is_forgotten_when_the_one_here_is_heard_again() -> None:
    clock = Clock()
    policies = KnownPolicies(clock)
    policies.heard("shop", at(7))
    policies.heard("shop", at(6))
    policies.heard("shop", at(7))
    clock.now += 2 * BELIEVED_AFTER_S
    assert policies.ruling("shop", None) is not None
    assert policies.revision("shop") == 7
