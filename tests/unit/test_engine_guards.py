"""Guards: what a change gives the canary, and what must hold before it is given."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from canary_engine import parse, release
from canary_engine.errors import RefusedMove
from canary_engine.guards import GIVES, Despite, Effect, Members, effect, is_frozen, passed
from canary_engine.model import (
    Approval,
    ApprovalRules,
    ApprovedMove,
    Backend,
    Bucketing,
    Compatibility,
    CompatibilityRule,
    Criteria,
    Flag,
    Guards,
    Identity,
    Policy,
    Release,
    ReleaseStatus,
    Rule,
    Segment,
    Source,
    Strategy,
    Variant,
    Version,
    VersionStatus,
    Whitelist,
)
from canary_engine.plan import Freeze
from canary_engine.release import MOVES, Move, State

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
IDLE = Policy(
    service_key="shop",
    versions=(
        Version(version="v1", status=VersionStatus.STABLE),
        Version(version="v2"),
        Version(version="v3"),
    ),
)


def start(policy: Policy, share: int = 5_000, version: str = "v2", id_: str = "r1") -> Policy:
    return release.start(
        policy,
        id=id_,
        version=version,
        share=share,
        strategy=Strategy.COMBINED,
        salt="",
        now=NOW,
    )


def at(policy: Policy, share: int) -> Policy:
    """The policy with its release at a share, whatever the table says."""
    return replace(policy, release=replace(the_release(policy), share=share))


def the_release(policy: Policy) -> Release:
    assert policy.release is not None
    return policy.release


def guarded(policy: Policy, **guards: Any) -> Policy:
    return replace(policy, guards=Guards(**guards))


RUNNING = release.roll_back_later(start(IDLE), "errors", NOW, NOW)
PROMOTED = release.promote(RUNNING, NOW)
STATES = {
    State.IN_PROGRESS: RUNNING,
    State.PAUSED: release.pause(RUNNING, NOW),
    State.HALTED: release.halt(RUNNING, NOW),
    State.COMPLETED: PROMOTED,
    State.ROLLED_BACK: release.roll_back(RUNNING, NOW),
    State.ABANDONED: release.abandon(RUNNING, NOW),
}
IN_FORCE = [State.IN_PROGRESS, State.PAUSED, State.HALTED]
DO = {
    Move.RAISE: lambda policy: release.set_percentage(policy, 10_000, NOW),
    Move.LOWER: lambda policy: release.set_percentage(policy, 1_000, NOW),
    Move.PAUSE: lambda policy: release.pause(policy, NOW),
    Move.RESUME: lambda policy: release.resume(policy, NOW),
    Move.HALT: lambda policy: release.halt(policy, NOW),
    Move.PROMOTE: lambda policy: release.promote(policy, NOW),
    Move.ROLL_BACK: lambda policy: release.roll_back(policy, NOW),
    Move.ABANDON: lambda policy: release.abandon(policy, NOW),
    Move.KEEP: lambda policy: release.keep(policy, NOW),
}
EFFECTS = {
    Move.RAISE: Effect.RAISE,
    Move.LOWER: Effect.LOWER,
    Move.PAUSE: None,
    Move.KEEP: None,
    Move.HALT: Effect.LOWER,
    Move.PROMOTE: Effect.PROMOTE,
    Move.ROLL_BACK: Effect.END,
    Move.ABANDON: Effect.END,
}


# What a change does


@pytest.mark.parametrize(
    ("state", "move"), [(state, move) for state in State for move in MOVES[state]]
)
def test_every_move_has_its_effect_in_every_state(state: State, move: Move) -> None:
    before = STATES[state]
    expected = EFFECTS.get(move)
    if state is State.HALTED and move is Move.LOWER:
        expected = None  # there is no traffic to take away
    if move is Move.RESUME:
        expected = Effect.RAISE if state is State.HALTED else None
    assert effect(before, DO[move](before)) is expected


@pytest.mark.parametrize("state", [State.COMPLETED, State.ROLLED_BACK, State.ABANDONED])
def test_a_start_is_one_whatever_there_was_before(state: State) -> None:
    before = STATES[state]
    assert effect(before, start(before, version="v3", id_="r2")) is Effect.START
    assert effect(IDLE, RUNNING) is Effect.START


@pytest.mark.parametrize("state", State)
def test_no_change_has_no_effect(state: State) -> None:
    assert effect(STATES[state], STATES[state]) is None


@pytest.mark.parametrize(("old", "new"), list(product(State, State)))
def test_whatever_jumps_to_whatever_is_guarded_if_it_gives_more(old: State, new: State) -> None:
    """Going back, or a file, may lead from any state to any other."""
    does = effect(STATES[old], STATES[new])
    if new is State.COMPLETED and old is not State.COMPLETED:
        assert does is Effect.PROMOTE
    elif old is State.COMPLETED:
        assert does not in GIVES  # everybody had it
    elif new not in IN_FORCE:
        assert does is (Effect.END if old in IN_FORCE else None)
    elif old not in IN_FORCE:
        assert does is Effect.START
    elif (old is State.HALTED) != (new is State.HALTED):
        assert does is (Effect.RAISE if old is State.HALTED else Effect.LOWER)
    else:
        assert does is None


def test_the_end_of_a_halt_is_a_raise_even_at_zero() -> None:
    halted = release.halt(at(RUNNING, 0), NOW)
    assert effect(halted, release.resume(halted, NOW)) is Effect.RAISE
    assert effect(at(RUNNING, 0), halted) is Effect.LOWER


def test_another_release_in_place_of_the_one_in_force_is_a_start() -> None:
    other = start(release.abandon(RUNNING, NOW), share=1, version="v3", id_="r2")
    assert effect(RUNNING, other) is Effect.START
    same_version = start(release.abandon(RUNNING, NOW), share=1, id_="r2")
    assert effect(RUNNING, same_version) is Effect.START


def test_registering_the_first_stable_version_is_no_promotion() -> None:
    empty = Policy(service_key="shop")
    first = replace(empty, versions=(Version(version="v1", status=VersionStatus.STABLE),))
    assert effect(empty, first) is None


def test_a_promotion_where_nothing_was_stable_is_one() -> None:
    before = start(replace(IDLE, versions=IDLE.versions[1:]))
    assert effect(before, release.promote(before, NOW)) is Effect.PROMOTE


def test_giving_stable_back_is_no_promotion_and_giving_it_again_is() -> None:
    next_release = start(PROMOTED, version="v3", id_="r2")
    assert effect(PROMOTED, IDLE) not in GIVES
    assert effect(PROMOTED, RUNNING) is Effect.LOWER
    assert effect(next_release, RUNNING) is Effect.LOWER
    assert effect(next_release, PROMOTED) is Effect.END
    assert effect(RUNNING, PROMOTED) is Effect.PROMOTE
    assert effect(IDLE, PROMOTED) is Effect.PROMOTE


# Freezes

WINTER = Freeze(
    name="winter",
    start="2026-03-01T13:00:00",
    end="2026-03-02T00:00:00",
    time_zone="Europe/Berlin",
    reason="nobody is there",
)


@pytest.mark.parametrize(
    ("now", "is_so"),
    [
        ("2026-03-01T11:59:59+00:00", False),
        ("2026-03-01T12:00:00+00:00", True),
        ("2026-03-01T21:00:00+09:00", True),
        ("2026-03-01T22:59:59+00:00", True),
        ("2026-03-01T23:00:00+00:00", False),
    ],
)
def test_a_freeze_holds_from_its_start_until_before_its_end_in_its_own_time(
    now: str, is_so: bool
) -> None:
    assert is_frozen(WINTER, datetime.fromisoformat(now)) is is_so


def freeze(start: str, end: str, zone: str) -> Freeze:
    return Freeze(name="f", start=start, end=end, time_zone=zone)


@pytest.mark.parametrize(
    ("start", "end", "zone", "first", "last"),
    [
        # Clocks are put back: 02:30 comes twice. From the first of them, to the second.
        (
            "2026-10-25T02:30:00",
            "2026-10-25T09:00:00",
            "Europe/Berlin",
            "2026-10-25T00:30",
            "2026-10-25T08:00",
        ),
        (
            "2026-10-24T09:00:00",
            "2026-10-25T02:30:00",
            "Europe/Berlin",
            "2026-10-24T07:00",
            "2026-10-25T01:30",
        ),
        # Clocks are put forward: 02:30 never comes.
        (
            "2026-03-29T02:30:00",
            "2026-03-29T09:00:00",
            "Europe/Berlin",
            "2026-03-29T00:30",
            "2026-03-29T07:00",
        ),
        (
            "2026-03-28T09:00:00",
            "2026-03-29T02:30:00",
            "Europe/Berlin",
            "2026-03-28T08:00",
            "2026-03-29T01:30",
        ),
        # A zone off by half an hour, and one that has skipped a whole day.
        (
            "2026-06-01T00:00:00",
            "2026-06-02T00:00:00",
            "Asia/Kolkata",
            "2026-05-31T18:30",
            "2026-06-01T18:30",
        ),
        (
            "2011-12-29T00:00:00",
            "2011-12-31T00:00:00",
            "Pacific/Apia",
            "2011-12-29T10:00",
            "2011-12-30T10:00",
        ),
    ],
)
def test_where_clocks_change_a_freeze_is_as_long_as_it_can_be(
    start: str, end: str, zone: str, first: str, last: str
) -> None:
    found = freeze(start, end, zone)
    begins, ends = (datetime.fromisoformat(t).replace(tzinfo=UTC) for t in (first, last))
    second = timedelta(seconds=1)
    moments = (begins - second, begins, ends - second, ends)
    assert [is_frozen(found, moment) for moment in moments] == [False, True, True, False]


def test_a_freeze_over_a_change_of_clocks_has_no_hole() -> None:
    zone = ZoneInfo("America/New_York")
    found = freeze("2026-10-31T20:00:00", "2026-11-01T08:00:00", "America/New_York")
    begins = datetime(2026, 10, 31, 20, tzinfo=zone).astimezone(UTC)
    hours = [is_frozen(found, begins + timedelta(minutes=10 * n)) for n in range(13 * 6)]
    assert hours == [True] * 13 * 6
    assert not is_frozen(found, begins + timedelta(hours=13))


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_a_freeze_from_the_first_day_to_the_last_holds_always(zone: str) -> None:
    assert is_frozen(freeze("0001-01-01T00:00:00", "9999-12-31T23:59:59", zone), NOW)


@pytest.mark.parametrize(
    ("state", "move"), [(state, move) for state in State for move in MOVES[state]]
)
def test_a_freeze_refuses_what_gives_and_never_what_takes(state: State, move: Move) -> None:
    before = guarded(STATES[state], freezes=(WINTER,))
    after = DO[move](before)
    if effect(before, after) not in GIVES:
        assert passed(before, after, actor="kim", now=NOW) == after
        return
    with pytest.raises(RefusedMove) as caught:
        passed(before, after, actor="kim", now=NOW)
    assert str(caught.value) == (
        f"cannot {effect(before, after)}: frozen by 'winter' until 2026-03-02T00:00:00 "
        "Europe/Berlin (nobody is there); lowering, halting and rolling back stay possible"
    )
    thaw = datetime(2026, 3, 1, 23, tzinfo=UTC)
    assert passed(before, after, actor="kim", now=thaw) == after


def test_a_freeze_refuses_a_start_and_not_the_way_back_over_a_promotion() -> None:
    frozen = guarded(IDLE, freezes=(WINTER,))
    with pytest.raises(RefusedMove, match="cannot start: frozen by 'winter'"):
        passed(frozen, start(frozen), actor="kim", now=NOW)
    promoted = replace(PROMOTED, guards=frozen.guards)
    assert passed(promoted, RUNNING, actor="kim", now=NOW) == RUNNING


def test_no_change_takes_away_its_own_guards() -> None:
    frozen = guarded(IDLE, freezes=(WINTER,))
    with pytest.raises(RefusedMove, match="frozen"):
        passed(frozen, start(IDLE), actor="kim", now=NOW)
    demanding = guarded(IDLE, approvals=ApprovalRules(start=True))
    given = replace(start(IDLE), approvals=(an_approval(ApprovedMove.START),))
    with pytest.raises(RefusedMove, match="consent"):
        passed(demanding, given, actor="kim", now=NOW)


# Approvals


def an_approval(move: ApprovedMove, **fields: Any) -> Approval:
    usual: dict[str, Any] = {
        "id": "a-1",
        "version": "v2",
        "share": 50_000,
        "by": "ada",
        "at": NOW,
        "expires_at": LATER,
    }
    return Approval(move=move, **(usual | fields))


EVERYTHING = ApprovalRules(start=True, promote=True, above=5_000, widen=True)


def approved(policy: Policy, *approvals: Approval) -> Policy:
    return replace(policy, guards=Guards(approvals=EVERYTHING), approvals=approvals)


MOVED = [
    (IDLE, lambda p: start(p), ApprovedMove.START, " --percentage 5"),
    (
        RUNNING,
        lambda p: release.set_percentage(p, 12_345, NOW),
        ApprovedMove.RAISE,
        " --percentage 12.345",
    ),
    (RUNNING, lambda p: release.promote(p, NOW), ApprovedMove.PROMOTE, ""),
]


@pytest.mark.parametrize(("policy", "do", "move", "option"), MOVED)
def test_without_consent_it_is_said_what_is_missing_and_how_to_give_it(
    policy: Policy, do: Any, move: ApprovedMove, option: str
) -> None:
    before = approved(policy)
    with pytest.raises(RefusedMove) as caught:
        passed(before, do(before), actor="kim", now=NOW)
    assert str(caught.value) == (
        f"cannot {move} v2: it needs the consent of somebody other than kim: "
        f"canaryctl approve shop {move} v2{option}"
    )


@pytest.mark.parametrize(("policy", "do", "move", "option"), MOVED)
def test_a_consent_is_used_up_in_the_change_that_needed_it(
    policy: Policy, do: Any, move: ApprovedMove, option: str
) -> None:
    other = an_approval(move, id="a-2", version="v3")
    before = approved(policy, an_approval(move), other)
    after = do(before)
    assert passed(before, after, actor="kim", now=NOW) == replace(after, approvals=(other,))


@pytest.mark.parametrize(("policy", "do", "move", "option"), MOVED)
@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "v3"},
        {"by": "kim"},
        {"by": " KIM "},
        {"expires_at": NOW},
        {"move": None},
        {"share": 4_999},
    ],
    ids=str,
)
def test_a_consent_to_something_else_does_not_count(
    policy: Policy, do: Any, move: ApprovedMove, option: str, wrong: dict[str, Any]
) -> None:
    if wrong == {"share": 4_999} and move is ApprovedMove.PROMOTE:
        return
    if wrong == {"move": None}:
        wrong = {"move": next(other for other in ApprovedMove if other is not move)}
    before = approved(policy, replace(an_approval(move), **wrong))
    with pytest.raises(RefusedMove, match="consent"):
        passed(before, do(before), actor="kim", now=NOW)


def test_going_back_to_a_promotion_and_another_start_needs_consent_to_both() -> None:
    later = start(PROMOTED, 5_000, version="v3", id_="r2")
    consents = (an_approval(ApprovedMove.PROMOTE), an_approval(ApprovedMove.START, version="v3"))
    for given in (consents[:1], consents[1:]):
        with pytest.raises(RefusedMove, match="consent"):
            passed(approved(RUNNING, *given), later, actor="kim", now=NOW)
    both = replace(consents[0], id="a-0"), consents[1]
    after = replace(later, approvals=both)
    assert passed(approved(RUNNING, *both), after, actor="kim", now=NOW).approvals == ()


def test_of_two_consents_the_one_that_allows_less_is_used() -> None:
    wide = an_approval(ApprovedMove.RAISE, id="wide", share=100_000)
    tight = an_approval(ApprovedMove.RAISE, id="tight", share=20_000)
    before = approved(RUNNING, wide, tight)
    after = passed(before, release.set_percentage(before, 20_000, NOW), actor="kim", now=NOW)
    assert after.approvals == (wide,)


@pytest.mark.parametrize(("share", "needs"), [(5_000, False), (5_001, True)])
def test_a_limit_is_about_what_lies_above_it_however_it_is_reached(share: int, needs: bool) -> None:
    rules = Guards(approvals=ApprovalRules(above=5_000))
    running, idle = (replace(p, guards=rules) for p in (at(RUNNING, 0), IDLE))
    halted = release.halt(at(running, share), NOW)
    for before, after in (
        (running, release.set_percentage(running, share, NOW)),
        (idle, start(idle, share)),
        (halted, release.resume(halted, NOW)),
    ):
        if needs:
            with pytest.raises(RefusedMove, match=r"approve shop raise v2 --percentage 5\.001"):
                passed(before, after, actor="kim", now=NOW)
        else:
            assert passed(before, after, actor="kim", now=NOW) == after


def test_a_start_needs_one_consent_and_it_covers_the_percentage() -> None:
    before = approved(IDLE, an_approval(ApprovedMove.START, share=80_000))
    after = passed(before, start(before, 80_000), actor="kim", now=NOW)
    assert after.approvals == ()
    with pytest.raises(RefusedMove, match=r"approve shop start v2 --percentage 80\.001"):
        passed(before, start(before, 80_001), actor="kim", now=NOW)


@pytest.mark.parametrize(
    ("state", "move"), [(state, move) for state in State for move in MOVES[state]]
)
def test_taking_traffic_away_never_needs_consent(state: State, move: Move) -> None:
    before = approved(STATES[state])
    after = DO[move](before)
    if effect(before, after) not in GIVES:
        assert passed(before, after, actor="kim", now=NOW) == after


def test_expired_consents_are_forgotten_with_the_next_change_whatever_it_is() -> None:
    valid, old = (
        an_approval(ApprovedMove.START, id=id_, expires_at=until)
        for id_, until in (("valid", LATER), ("old", NOW))
    )
    before = approved(RUNNING, valid, old)
    after = passed(before, release.pause(before, NOW), actor="kim", now=NOW)
    assert after.approvals == (valid,)


def test_guards_and_approvals_survive_being_written_and_read() -> None:
    policy = replace(
        approved(RUNNING, an_approval(ApprovedMove.RAISE)),
        guards=Guards(approvals=EVERYTHING, freezes=(WINTER,)),
    )
    assert parse.policy(parse.document(policy)) == policy


# What is known of a version

BREAKS = Compatibility(
    rules=(
        CompatibilityRule(source="v0", to="v2", compatible=True),
        CompatibilityRule(source="v1", to="v2", compatible=False, notes="v1 was removed"),
        CompatibilityRule(source="v1", to="v3", compatible=False),
    )
)
ROLLED_BACK = release.roll_back(RUNNING, NOW)


def test_a_start_that_breaks_a_compatibility_rule_is_refused_with_the_rule() -> None:
    before = replace(IDLE, compatibility=BREAKS)
    with pytest.raises(RefusedMove) as caught:
        passed(before, start(before), actor="kim", now=NOW)
    assert str(caught.value) == (
        "version 'v2' breaks the compatibility rule v1 -> v2 (v1 was removed): "
        "say why it is released all the same (despite_incompatible)"
    )
    forced = frozenset({Despite.INCOMPATIBLE})
    assert passed(before, start(before), actor="kim", now=NOW, despite=forced) == start(before)


def test_only_a_start_is_held_against_the_rules() -> None:
    for state in IN_FORCE:
        before = replace(STATES[state], compatibility=BREAKS)
        for move in MOVES[state]:
            after = DO[move](before)
            assert passed(before, after, actor="kim", now=NOW) == after


def test_a_version_that_was_rolled_back_starts_only_for_a_reason() -> None:
    again = start(ROLLED_BACK, id_="r2")
    with pytest.raises(RefusedMove) as caught:
        passed(ROLLED_BACK, again, actor="kim", now=NOW)
    assert str(caught.value) == (
        "version 'v2' was rolled back on 2026-03-01: "
        "say why it may be released again (despite_rollback)"
    )
    despite = frozenset({Despite.ROLLBACK})
    assert passed(ROLLED_BACK, again, actor="kim", now=NOW, despite=despite) == again
    with pytest.raises(RefusedMove, match="rolled back"):
        passed(ROLLED_BACK, again, actor="kim", now=NOW, despite=frozenset({Despite.INCOMPATIBLE}))


def test_an_abandoned_version_starts_again_without_one() -> None:
    abandoned = release.abandon(RUNNING, NOW)
    again = start(abandoned, id_="r2")
    assert passed(abandoned, again, actor="kim", now=NOW) == again
    assert the_release(again).status is ReleaseStatus.IN_PROGRESS


# What a version is

OLD, NEW, OTHER = (Backend(upstream=name) for name in ("old", "new", "other"))


def served(policy: Policy, **backends: Backend) -> Policy:
    """The policy with backends for some of its versions."""
    return replace(
        policy,
        versions=tuple(
            replace(v, backend=backends.get(v.version, v.backend)) for v in policy.versions
        ),
    )


SERVING = served(RUNNING, v1=OLD, v2=NEW, v3=OTHER)
REPOINTED = [
    (served(SERVING, v1=NEW), "change the backend of v1, which is stable", "promote v1"),
    (
        served(SERVING, v2=OTHER),
        "change the backend of v2, which is being released",
        "start v2 --percentage 5",
    ),
]


@pytest.mark.parametrize(("after", "words", "consent"), REPOINTED)
def test_another_backend_of_what_people_have_is_refused_in_a_freeze_and_needs_consent(
    after: Policy, words: str, consent: str
) -> None:
    with pytest.raises(RefusedMove, match=f"^cannot {words}: frozen by 'winter'"):
        passed(guarded(SERVING, freezes=(WINTER,)), after, actor="kim", now=NOW)
    with pytest.raises(RefusedMove) as caught:
        passed(approved(SERVING), after, actor="kim", now=NOW)
    assert str(caught.value) == (
        f"cannot {words}: it needs the consent of somebody other than kim: "
        f"canaryctl approve shop {consent}"
    )
    move, version = consent.split()[:2]
    given = an_approval(ApprovedMove(move), version=version, share=5_000)
    before = approved(SERVING, given)
    asked = replace(after, guards=before.guards, approvals=before.approvals)
    assert passed(before, asked, actor="kim", now=NOW).approvals == ()
    assert passed(SERVING, after, actor="kim", now=NOW) == after


def test_another_backend_of_a_release_above_the_limit_needs_consent_like_a_raise() -> None:
    before = guarded(at(SERVING, 5_001), approvals=ApprovalRules(above=5_000))
    after = served(before, v2=OTHER)
    with pytest.raises(RefusedMove, match=r"approve shop raise v2 --percentage 5\.001"):
        passed(before, after, actor="kim", now=NOW)
    within = at(before, 5_000)
    assert passed(within, served(within, v2=OTHER), actor="kim", now=NOW) == served(
        within, v2=OTHER
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SERVING, SERVING),
        (SERVING, served(SERVING, v2=OLD)),  # those of the canary get what all others have
        (SERVING, served(SERVING, v3=NEW)),  # nobody has it
        (SERVING, served(release.roll_back(SERVING, NOW), v2=OTHER)),
    ],
)
def test_a_backend_that_gives_nobody_anything_new_is_open(before: Policy, after: Policy) -> None:
    guards = Guards(approvals=EVERYTHING, freezes=(WINTER,))
    before, after = (replace(policy, guards=guards) for policy in (before, after))
    assert passed(before, after, actor="kim", now=NOW) == after


def test_a_halt_is_no_way_around_the_guards_of_a_backend() -> None:
    halted = guarded(release.halt(SERVING, NOW), freezes=(WINTER,))
    with pytest.raises(RefusedMove, match="cannot change the backend of v2"):
        passed(halted, served(halted, v2=OTHER), actor="kim", now=NOW)


def test_a_consent_lapses_with_the_backend_that_it_was_given_for() -> None:
    consents = (an_approval(ApprovedMove.START), an_approval(ApprovedMove.START, version="v3"))
    before = approved(served(IDLE, v2=NEW), *consents)
    after = passed(before, served(before, v2=OTHER), actor="kim", now=NOW)
    assert after.approvals == consents[1:]
    with pytest.raises(RefusedMove, match="nobody can have consented to the backend"):
        passed(before, start(served(before, v2=OTHER)), actor="kim", now=NOW)


def test_a_first_stable_version_that_says_where_it_is_is_guarded_like_a_promotion() -> None:
    empty = Policy(service_key="shop")
    first = Version(version="v1", status=VersionStatus.STABLE)
    registered = replace(empty, versions=(Version(version="v1"),))
    for before in (empty, registered):
        assert effect(before, replace(before, versions=(first,))) is None
        elsewhere = replace(before, versions=(replace(first, backend=NEW),))
        assert effect(before, elsewhere) is Effect.PROMOTE


# What gives the canary besides the draw

TESTERS = Rule(name="testers", source=Source.HEADER, key="x-t", exact="1", variant=Variant.CANARY)
ALL = Rule(name="all", source=Source.PATH, pattern=".*", variant=Variant.CANARY)
NOT_A = Rule(name="not-a", source=Source.PATH, pattern="^/a", variant=Variant.STABLE)
BETA = Segment(name="beta", canary_eligible=True, share=5_000, listed=True)
VIP = Segment(name="vip", canary_eligible=False, listed=True)
TRY = Flag(name="try", enabled=True, share=100, users=("u-1",), segments=("vip",))
WIDE = replace(
    RUNNING,
    rules=(NOT_A, TESTERS),
    whitelist=Whitelist(ips=("10.0.0.0/8",), users=("u-1",), consumers=("acme",)),
    segments=(BETA, VIP),
    flags=(TRY,),
    compatibility=replace(BREAKS, header="x-api"),
)
WIDER: dict[str, list[dict[str, Any]]] = {
    "rules": [
        {"rules": (*WIDE.rules, ALL)},
        {"rules": (TESTERS, NOT_A)},
        {"rules": (TESTERS,)},
    ],
    "whitelist": [
        {"whitelist": replace(WIDE.whitelist, ips=("0.0.0.0/0",))},
        {"whitelist": replace(WIDE.whitelist, users=("u-1", "u-2"))},
        {"whitelist": replace(WIDE.whitelist, consumers=("acme", "other"))},
    ],
    "segments": [
        {"segments": (replace(BETA, share=None), VIP)},
        {"segments": (BETA, VIP, replace(BETA, name="more"))},
        {"segments": (BETA,)},
        {"segments": (BETA, replace(VIP, canary_eligible=True))},
        {"segments": (replace(BETA, criteria=Criteria(tiers=("free",))), VIP)},
    ],
    "flags": [
        {"flags": (replace(TRY, share=101),)},
        {"flags": (replace(TRY, users=("u-1", "u-2")),)},
        {"flags": (replace(TRY, segments=("vip", "beta")),)},
        {"flags": (TRY, replace(TRY, name="more"))},
    ],
    "compatibility": [
        {"compatibility": replace(WIDE.compatibility, rules=())},
        {"compatibility": replace(WIDE.compatibility, header="x-other")},
    ],
    "bucketing": [{"bucketing": Bucketing(cookie="other")}],
    "identity": [{"identity": Identity(user_id_header="x-other")}],
}
NARROWER: list[dict[str, Any]] = [
    {},
    {"rules": (NOT_A,)},
    {"rules": (replace(NOT_A, name="renamed"), replace(ALL, variant=Variant.STABLE), TESTERS)},
    {"whitelist": Whitelist()},
    {"segments": (replace(BETA, share=1), VIP, replace(VIP, name="more"))},
    {"segments": (VIP,)},
    {"flags": (replace(TRY, share=0, users=()),)},
    {"flags": (replace(TRY, enabled=False), Flag(name="new", enabled=True))},
    {"compatibility": replace(BREAKS, header="x-api", rules=BREAKS.rules[1:])},
]


@pytest.mark.parametrize(
    ("part", "change"), [(part, change) for part, found in WIDER.items() for change in found]
)
def test_in_a_freeze_nothing_gives_more_people_the_canary_by_other_ways(
    part: str, change: dict[str, Any]
) -> None:
    before = guarded(WIDE, freezes=(WINTER,))
    after = replace(before, **change)
    with pytest.raises(RefusedMove) as caught:
        passed(before, after, actor="kim", now=NOW)
    assert str(caught.value).startswith(
        f"cannot change {part}, which may give more people the canary: frozen by 'winter' until"
    )
    for open_ in (WIDE, guarded(release.halt(WIDE, NOW), freezes=(WINTER,))):
        after = replace(open_, **change)
        assert passed(open_, after, actor="kim", now=NOW) == after


@pytest.mark.parametrize("change", NARROWER)
def test_in_a_freeze_whatever_gives_fewer_people_the_canary_is_open(change: dict[str, Any]) -> None:
    before = guarded(WIDE, freezes=(WINTER,))
    after = replace(before, **change)
    assert passed(before, after, actor="kim", now=NOW) == after


@pytest.mark.parametrize(
    ("joined", "left", "is_open"),
    [("beta", "", False), ("vip", "", False), ("", "vip", False), ("", "beta", True)],
)
def test_in_a_freeze_members_join_nothing_that_gives_and_leave_nothing_that_protects(
    joined: str, left: str, *, is_open: bool
) -> None:
    before = guarded(WIDE, freezes=(WINTER,))  # a flag is on for the members of vip
    members = Members(joined=frozenset({joined} - {""}), left=frozenset({left} - {""}))
    if is_open:
        assert passed(before, before, actor="kim", now=NOW, members=members) == before
        return
    with pytest.raises(RefusedMove, match="cannot change members, which may give"):
        passed(before, before, actor="kim", now=NOW, members=members)


def test_the_way_back_over_a_promotion_is_open_whatever_else_has_changed_since() -> None:
    since = replace(served(PROMOTED, v1=OTHER), rules=(), segments=())
    before = guarded(since, freezes=(WINTER,))
    after = replace(served(WIDE, v1=OTHER, v2=OLD), guards=before.guards)
    assert passed(before, after, actor="kim", now=NOW) == after


def test_whatever_may_widen_needs_consent_where_that_is_demanded_and_one_serves_once() -> None:
    rules = ApprovalRules(widen=True)
    before = guarded(WIDE, approvals=rules)
    after = replace(before, rules=(*before.rules, ALL))
    with pytest.raises(RefusedMove) as caught:
        passed(before, after, actor="kim", now=NOW)
    assert str(caught.value) == (
        "cannot change rules, which may give more people the canary: it needs the consent of "
        "somebody other than kim: canaryctl approve shop widen v2"
    )
    wrong = an_approval(ApprovedMove.RAISE, share=100_000)
    consent = an_approval(ApprovedMove.WIDEN, id="a-2", share=0)
    before, after = (replace(p, approvals=(wrong, consent)) for p in (before, after))
    assert passed(before, after, actor="kim", now=NOW).approvals == (wrong,)
    narrower = replace(before, rules=(NOT_A,))
    assert passed(before, narrower, actor="kim", now=NOW) == narrower
