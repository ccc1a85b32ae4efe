"""Ten thousand changes to releases, each foretold by a model that knows nothing of the engine.

The model says what a team was promised: a table of moves as words, how many people a version
reaches, and that more reach is guarded. The editor, a store and a clock that also goes backwards
must agree with it at every step, and every revision ever made must hold together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import structlog
from canary_engine import parse
from canary_engine.errors import CanaryError
from canary_engine.guards import Despite
from canary_engine.model import ApprovedMove, Strategy
from canary_engine.release import Move
from decision_svc import changes
from decision_svc.editor import Editor, Who
from decision_svc.halting import Halting
from decision_svc.metrics import Metrics
from decision_svc.snapshot import Snapshot
from decision_svc.store.memory import MemoryStore
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

EXAMPLES, STEPS = 240, 50
SHOP = "商城"
NAMES = [f"v{number}" for number in range(1, 9)]
MORE = ["版本九", "v8"]
METRICS = Metrics()
STEPS_MADE: list[int] = []
WINTER = {
    "name": "winter",
    "start": "2000-01-01T00:00:00",
    "end": "2100-01-01T00:00:00",
    "time_zone": "Asia/Shanghai",
}
# What may follow what; "raise" and "lower" keep the state.
TABLE = {
    "running": {
        "raise": "running",
        "lower": "running",
        "pause": "paused",
        "halt": "halted",
        "promote": "completed",
        "roll-back": "rolled-back",
        "abandon": "abandoned",
    },
    "paused": {
        "lower": "paused",
        "resume": "running",
        "halt": "halted",
        "roll-back": "rolled-back",
        "abandon": "abandoned",
    },
    "halted": {
        "lower": "halted",
        "resume": "running",
        "roll-back": "rolled-back",
        "abandon": "abandoned",
    },
}
EVERYBODY = 1_000_000

names = st.sampled_from([*NAMES, *MORE])
people = st.sampled_from(["kim", "ada", "Kim "])
shares = st.sampled_from([0, 1, 5_000, 25_000, 25_001, 50_000, 100_000])


@dataclass
class Told:
    """What the model says is stored: the part that going back brings back."""

    statuses: dict[str, str] = field(default_factory=dict)
    rolled_back: set[str] = field(default_factory=set)
    state: str = "none"
    id: int = 0
    version: str = ""
    share: int = 0

    @property
    def in_force(self) -> bool:
        return self.state in TABLE

    @property
    def stable(self) -> str:
        return next(name for name, status in self.statuses.items() if status == "stable")

    def reach(self, version: str) -> int:
        """How many get the version; a halted one still has its rules, so it has a little."""
        if version == self.stable:
            return EVERYBODY
        if not self.in_force or version != self.version:
            return 0
        return 1 if self.state == "halted" else 2 + self.share


@dataclass
class Consent:
    id: str
    move: str
    version: str
    share: int
    by: str
    until: datetime


class Refused(Exception):  # noqa: N818
    """The model says no."""


class Releases(RuleBasedStateMachine):
    """A team at one service key."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)
        numbers = count(1)
        self.store, snapshot = MemoryStore(), Snapshot()
        self.editor = Editor(
            self.store,
            snapshot,
            METRICS,
            clock=lambda: self.now,
            new_id=lambda: str(next(numbers)),
        )
        self.halting = Halting(self.editor, self.store, snapshot)
        self.told = Told()
        self.consents: list[Consent] = []
        self.needs: dict[str, Any] = {}
        self.frozen = False
        self.ids = count(1)
        self.history: list[Told] = []

    def teardown(self) -> None:
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def change(self, who: str, edit: changes.Edit, **more: Any) -> None:
        self.run(self.editor.change(SHOP, None, Who(actor=who, reason="why"), "what", edit, **more))

    def both(self, who: str, edit: Any, after: Told | None, **more: Any) -> None:
        """Do it, and expect what the model says: ``after`` None is that it says no."""
        try:
            if after is None:
                raise Refused
            used = self.guarded(after, who.strip().lower(), more.get("despite", frozenset()))
        except Refused:
            try:
                self.change(who, edit, **more)
            except CanaryError:
                return
            raise AssertionError("this should have been refused") from None
        self.change(who, edit, **more)
        self.settle(after, used)

    def settle(self, after: Told, used: Sequence[Consent] = ()) -> None:
        """The change is made; if it changed nothing there is no revision."""
        revision = self.run(self.store.revisions()).get(SHOP, 0)
        if revision == len(self.history):
            assert after == self.told
            return
        self.told = after
        self.history.append(deepcopy(after))
        self.consents = [c for c in self.consents if c not in used and c.until > self.now]

    def guarded(self, after: Told, who: str, despite: frozenset[Despite]) -> list[Consent]:
        """The consents that the change uses up. Raises Refused."""
        before = self.told
        given = []
        is_back = before.statuses.get(after.stable) == "deprecated"
        if before.statuses and after.stable != before.stable and not is_back:
            given.append(("promote", after.stable, 0))
        if before.statuses and after.in_force and before.reach(after.version) != EVERYBODY:
            if not before.in_force or before.id != after.id:
                given.append(("start", after.version, max(after.reach(after.version) - 2, 0)))
            elif after.reach(after.version) > before.reach(after.version):
                given.append(("raise", after.version, max(after.reach(after.version) - 2, 0)))
        if given and self.frozen:
            raise Refused
        used = []
        for kind, version, share in given:
            if kind == "start" and version in before.rolled_back and not despite:
                raise Refused
            needed = kind if self.needs.get(kind) else ""
            if not needed and kind != "promote" and share > self.needs.get("above", EVERYBODY):
                needed = "raise"
            if needed:
                used.append(self.consent(needed, version, share, who))
        return used

    def consent(self, move: str, version: str, share: int, who: str) -> Consent:
        """The one that is used up: it allows the least."""
        fitting = [
            c
            for c in self.consents
            if (c.move, c.version) == (move, version)
            and c.share >= share
            and c.by != who
            and c.until > self.now
        ]
        if not fitting:
            raise Refused
        return min(fitting, key=lambda c: (c.share, c.until))

    @initialize()
    def first(self) -> None:
        self.register("v0", status="stable")
        for name in NAMES:
            self.register(name)

    @rule(name=st.sampled_from(MORE))
    def register(self, name: str, status: str = "") -> None:
        after = deepcopy(self.told)
        after.statuses.setdefault(name, status)
        self.both(
            "kim",
            changes.register_version(
                {"version": name, "status": status} if status else {"version": name}
            ),
            after,
        )

    @rule(name=st.sampled_from(MORE))
    def deprecate(self, name: str) -> None:
        after: Told | None = None
        if self.told.statuses.get(name) in ("", "deprecated"):
            after = deepcopy(self.told)
            after.statuses[name] = "deprecated"
        self.both("kim", changes.deprecate_version(name), after)

    @precondition(lambda self: not self.told.in_force)
    @rule(which=st.integers(0, 5), share=shares, who=people)
    def start_one(self, which: int, share: int, who: str) -> None:
        ready = [name for name, status in self.told.statuses.items() if status == ""]
        if ready:
            self.start(ready[which % len(ready)], share, who, True)

    @rule(name=names, share=shares, who=people, reason=st.booleans())
    def start(self, name: str, share: int, who: str, reason: bool) -> None:
        despite = frozenset({Despite.ROLLBACK}) if reason else frozenset()
        after: Told | None = None
        if not self.told.in_force and self.told.statuses.get(name) == "":
            after = deepcopy(self.told)
            after.statuses[name] = "canary"
            after.state, after.version, after.share = "running", name, share
            after.id = next(self.ids)
        edit = self.editor.start_release(name, share, Strategy.COMBINED, "")
        self.both(who, edit, after, despite=despite)

    @rule(share=shares, who=people)
    def set_percentage(self, share: int, who: str) -> None:
        move = "raise" if share > self.told.share else "lower"
        after: Told | None = None
        if move in TABLE.get(self.told.state, {}):
            after = deepcopy(self.told)
            after.share = share
        self.both(who, self.editor.set_percentage(share), after)

    @precondition(lambda self: self.told.in_force)
    @rule(which=st.integers(0, 5), who=people)
    def move_on(self, which: int, who: str) -> None:
        allowed = [move for move in TABLE[self.told.state] if move not in ("raise", "lower")]
        self.move(Move(allowed[which % len(allowed)]), who)

    @rule(move=st.sampled_from([m for m in Move if m not in (Move.RAISE, Move.LOWER)]), who=people)
    def move(self, move: Move, who: str) -> None:
        after: Told | None = None
        if move in TABLE.get(self.told.state, {}):
            after = deepcopy(self.told)
            after.state = TABLE[self.told.state][move]
            self.end(after)
        self.both(who, self.editor.move_release(move), after)

    def end(self, after: Told) -> None:
        if after.state == "completed":
            after.statuses[self.told.stable] = "deprecated"
            after.statuses[after.version] = "stable"
            after.rolled_back.discard(after.version)
        if after.state in ("rolled-back", "abandoned"):
            after.statuses[after.version] = ""
            after.share = 0
        if after.state == "rolled-back":
            after.rolled_back.add(after.version)

    @rule(who=people)
    def halt_all(self, who: str) -> None:
        after = deepcopy(self.told)
        if after.in_force:
            after.state = "halted"
        found = self.run(self.halting.halt_all(Who(actor=who, reason="stop")))
        assert [halted.trouble for halted in found] == [""] * self.told.in_force
        self.settle(after)

    @rule(back=st.integers(0, 12), who=people)
    def revert(self, back: int, who: str) -> None:
        revision = max(len(self.history) - back, 1)
        edit = self.run(self.editor.revert(SHOP, revision))
        target = deepcopy(self.history[revision - 1])
        target.rolled_back |= self.told.rolled_back & target.statuses.keys() - {target.stable}
        self.both(who, edit, target, despite=frozenset({Despite.ROLLBACK}))

    @rule(
        move=st.sampled_from(["start", "raise", "promote"]),
        name=names,
        share=shares,
        who=people,
        hours=st.integers(1, 48),
    )
    def approve(self, move: str, name: str, share: int, who: str, hours: int) -> None:
        if name not in self.told.statuses or len(self.consents) >= 100:
            return
        share = 0 if move == "promote" else share
        asked = Who(actor=who, reason="yes")
        edit, id_ = self.editor.approve(ApprovedMove(move), name, share, asked, hours * 3_600)
        consent = Consent(
            id_, move, name, share, who.strip().lower(), self.now + timedelta(hours=hours)
        )
        self.change(who, edit)
        self.consents.append(consent)
        self.settle(deepcopy(self.told))

    @rule(which=st.integers(0, 5), who=people, hours=st.integers(1, 48))
    def approve_what_may_come(self, which: int, who: str, hours: int) -> None:
        if self.told.in_force:
            move = ("raise", "promote")[which % 2]
            self.approve(move, self.told.version, 100_000, who, hours)
            return
        ready = [name for name, status in self.told.statuses.items() if status == ""]
        if ready:
            self.approve("start", ready[which % len(ready)], 25_001, who, hours)

    @rule(which=st.integers(0, 3))
    def withdraw(self, which: int) -> None:
        if self.consents:
            consent = self.consents[which % len(self.consents)]
            self.change("kim", changes.withdraw_approval(consent.id))
            self.settle(deepcopy(self.told), [consent])

    @rule(start=st.booleans(), promote=st.booleans(), above=st.sampled_from([None, 25_000]))
    def demand(self, start: bool, promote: bool, above: int | None) -> None:
        self.needs = {"start": start, "promote": promote}
        if above is not None:
            self.needs["above"] = above
        self.set_guards()

    @rule(frozen=st.sampled_from([True, False, False]))
    def freeze_or_thaw(self, frozen: bool) -> None:
        self.frozen = frozen
        self.set_guards()

    def set_guards(self) -> None:
        rules = {name: True for name in ("start", "promote") if self.needs.get(name)}
        above = {"above": 25} if "above" in self.needs else {}
        guards = {"approvals": rules | above, "freezes": [WINTER] * self.frozen}
        self.change("kim", changes.replace("guards", guards))
        self.settle(deepcopy(self.told))

    @rule(hours=st.integers(-3, 30))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @invariant()
    def the_step_is_counted(self) -> None:
        STEPS_MADE.append(len(self.history))

    @invariant()
    def what_is_stored_is_what_the_model_says(self) -> None:
        if not self.history:
            return
        stored = self.run(self.store.load(SHOP))
        policy = parse.policy(stored)
        assert policy.revision == len(self.history)
        statuses = {v.version: v.status.replace("unspecified", "") for v in policy.versions}
        assert statuses == self.told.statuses
        assert {v.version for v in policy.versions if v.rollback_date} == self.told.rolled_back
        assert {a.id for a in policy.approvals} == {c.id for c in self.consents}
        found = policy.release
        if found is None:
            assert self.told.state == "none"
            return
        state = "halted" if found.halted else found.status.replace("in-progress", "running")
        assert (state, found.version, found.share) == (
            self.told.state,
            self.told.version,
            self.told.share,
        )
        # Weight and state agree: who has ended withdrawn has none, and a canary is in force.
        assert found.is_in_force == (found.ended_at is None) == ("canary" in statuses.values())
        if found.started_at and found.ended_at:
            assert found.started_at <= found.ended_at


class Quiet(Releases):
    """The same without a line in the log for each change."""

    def __init__(self) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        super().__init__()

    def teardown(self) -> None:
        super().teardown()
        structlog.reset_defaults()


SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    # A failure is shown as it was found: to make it smaller takes minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


def test_ten_thousand_changes_do_what_the_model_says() -> None:
    run_state_machine_as_test(Quiet, settings=SETTINGS)
    assert len(STEPS_MADE) >= 10_000
