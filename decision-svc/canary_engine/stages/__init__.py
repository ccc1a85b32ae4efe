"""The stages of a decision, a file each; which of them a policy needs, and in which order."""

from __future__ import annotations

from canary_engine import api_version
from canary_engine.keys import HashKeys
from canary_engine.model import Policy, Reason, Strategy, Whitelist
from canary_engine.stages.compatibility import compatibility_stage
from canary_engine.stages.default import default_stage
from canary_engine.stages.flag import flag_stage
from canary_engine.stages.no_release import no_release_stage
from canary_engine.stages.override import override_stage
from canary_engine.stages.percentage import percentage_stage
from canary_engine.stages.rule import rule_stage
from canary_engine.stages.segment import segment_stage
from canary_engine.stages.stage import Stage
from canary_engine.stages.whitelist import whitelist_stage
from canary_engine.verdicts import Verdicts

CHOSEN_BY = {
    Strategy.COMBINED: frozenset({Reason.SEGMENT, Reason.FLAG, Reason.PERCENTAGE}),
    Strategy.PERCENTAGE: frozenset({Reason.PERCENTAGE}),
    Strategy.USER_SEGMENT: frozenset({Reason.SEGMENT}),
    Strategy.FEATURE_FLAG: frozenset({Reason.FLAG}),
}
"""Which of the stages that a strategy chooses from take part under it."""


def stages_of(policy: Policy) -> tuple[Stage, ...]:
    """The stages that have anything to do, in the order in which they are asked."""
    verdicts, keys = Verdicts(policy), HashKeys(policy)
    release = policy.release
    if release is None or not release.is_in_force or release.halted:
        return (no_release_stage(verdicts, release),)
    measure = keys.measure_under(release.salt)
    chosen = CHOSEN_BY[release.strategy]
    stages: list[Stage] = []
    if policy.overrides.public_key:
        stages.append(override_stage(verdicts, policy))
    if policy.rules:
        stages.append(rule_stage(verdicts, policy.rules))
    if policy.compatibility.rules and api_version.places(policy.compatibility):
        stages.append(compatibility_stage(verdicts, policy.compatibility, release.version))
    if policy.whitelist != Whitelist():
        stages.append(whitelist_stage(verdicts, policy.whitelist, policy.identity.user_id_header))
    if policy.segments and Reason.SEGMENT in chosen:
        stages.append(segment_stage(verdicts, measure, policy))
    if policy.flags and Reason.FLAG in chosen:
        stages.append(flag_stage(verdicts, keys, policy))
    if Reason.PERCENTAGE in chosen:
        stages.append(percentage_stage(verdicts, measure, release.share, release.control))
    return (*stages, default_stage(verdicts, measure, stages))
