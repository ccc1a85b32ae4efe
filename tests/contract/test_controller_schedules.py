"""Ten thousand schedules of faults: whatever befalls controllers, what they promise holds.

Controllers crash, are cut off, stand still in the middle of a call, lose races and answers; their
machines are suspended, so that they believe in leases that are over; the service's clock jumps;
people interfere. The policy is changed by the real editor on the real store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from random import Random

import pytest
import structlog
from canary_engine.judge.verdict import Verdict
from canary_engine.model import ReleaseStatus
from canary_engine.plan import Plan, PlanStep, RollbackPlan
from canary_engine.release import Move
from canary_engine.step import Do
from support.controller_world import Accepted, Machine, World

SCHEDULES, CHUNKS = 10_000, 20
FAULTS = 18
ROUNDS = 60
PLANS = (
    Plan(steps=(PlanStep(weight=5_000, hold="10s"), PlanStep(weight=25_000, hold="5s"))),
    Plan(
        steps=(PlanStep(weight=1_000, hold="5s"), PlanStep(weight=50_000, hold="10s")),
        rollback=RollbackPlan(delay="20s"),
    ),
    Plan(
        steps=tuple(PlanStep(weight=w, hold="0s") for w in (2_000, 10_000, 30_000)),
        max_weight=30_000,
    ),
)
GIVES = (Do.RAISE, Do.PROMOTE)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Without a line in the log for each of a hundred thousand moves."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whatever_befalls_controllers_the_weight_is_as_allowed_one_acts_and_every_release_ends(
    chunk: int,
) -> None:
    size = SCHEDULES // CHUNKS
    with asyncio.Runner() as runner:
        for seed in range(chunk * size, (chunk + 1) * size):
            runner.run(check(seed))


async def test_who_slept_through_the_end_of_its_lease_is_refused_by_its_token() -> None:
    """It has the newest policy and believes in its lease: only the token tells."""
    world = World(PLANS[2], 2_000)
    await world.begin()
    one, other = (Machine(world, name, Random(1)) for name in ("one", "other"))
    one.wire.is_faulty = other.wire.is_faulty = False
    world.verdict = Verdict.INCONCLUSIVE
    await one.tick()
    one.sleep(11)
    world.verdict = Verdict.PASS
    await other.tick()
    assert (world.release.share, world.release.fence) == (10_000, 2)
    world.passed_s += 3
    other.wire.is_cut = True
    await one.tick()
    await one.tick()
    assert "a controller with 2 has acted since" in one.wire.refusals[0]
    assert (world.release.share, world.release.fence) == (10_000, 2)
    for machine in (one, other):
        await machine.crash()


async def test_a_mistake_in_judging_costs_a_release_its_turn_and_no_more() -> None:
    world = World(PLANS[2], 2_000)
    await world.begin()
    machine = Machine(world, "one", Random(1))
    machine.wire.is_faulty = False
    world.verdict = None
    await machine.tick()
    assert world.release.share == 2_000
    world.verdict = Verdict.PASS
    world.passed_s += 6
    await machine.tick()
    assert world.release.share == 10_000
    await machine.crash()


async def check(seed: int) -> None:
    """One schedule; the seed is in the trace of a failure."""
    chance = Random(seed)
    world = World(chance.choice(PLANS), chance.choice([0, 0, 1_000, 5_000]))
    await world.begin()
    machines = [Machine(world, f"m{n}", chance) for n in range(chance.choice([2, 2, 3]))]
    for _ in range(FAULTS):
        await befall(world, machines, chance)
        check_writes(world)
    await recover(world, machines)
    was_in_force, is_good = world.release.is_in_force, world.verdict is Verdict.PASS
    is_due = world.release.due_rollback is not None
    for number in range(ROUNDS):
        if world.is_closed:
            break
        for machine in machines:
            await machine.tick()
        # A clock that was an hour ahead makes holds an hour longer.
        world.passed_s += 8_000 if number % 12 == 11 else 9 if world.release.is_in_force else 63
        check_writes(world)
    for machine in machines:
        await machine.crash()
    assert not world.release.is_in_force
    assert world.is_closed
    if was_in_force and not is_due:
        ended = ReleaseStatus.COMPLETED if is_good else ReleaseStatus.ROLLED_BACK
        assert world.release.status is ended


async def befall(world: World, machines: list[Machine], chance: Random) -> None:
    """One thing happens."""
    machine = chance.choice(machines)
    happens: Callable[[], Awaitable[None]] = chance.choices(
        [
            machine.tick,
            machine.crash,
            lambda: deliver(world, machines, chance),
            lambda: passes(world, chance.choice([1, 1, 3, 6, 12, 40])),
            lambda: jumps(world, chance.choice([-3_600, -20, 20, 3_600])),
            lambda: suspends(machine, chance),
            lambda: oversleeps(world, machines, chance),
            lambda: cut(machine),
            lambda: changes_mind(world, chance),
            lambda: interferes(world, chance),
        ],
        weights=[38, 4, 14, 20, 1, 5, 3, 6, 4, 5],
    )[0]
    await happens()


async def deliver(world: World, machines: list[Machine], chance: Random) -> None:
    """A call that was on its way arrives, maybe long after it was made."""
    if world.pending:
        waiting = world.pending.pop(chance.randrange(len(world.pending)))
        if not waiting.done():
            waiting.set_result(None)
        for machine in machines:
            await machine.go_on()


async def passes(world: World, seconds: float) -> None:
    world.passed_s += seconds


async def suspends(machine: Machine, chance: Random) -> None:
    """A machine stands still, and believes afterwards that no time has passed."""
    machine.sleep(chance.choice([4, 12, 30]))


async def oversleeps(world: World, machines: list[Machine], chance: Random) -> None:
    """A machine stands still until its lease is over, another acts, and it goes on as it was.

    It hears of the newest policy, so that nothing but its token is too old.
    """
    one, other = chance.sample(machines, 2)
    await one.tick()
    one.sleep(12)
    await other.tick()
    world.verdict = chance.choice([Verdict.PASS, Verdict.FAIL])
    await one.tick()


async def jumps(world: World, seconds: float) -> None:
    """The service's clock is set."""
    world.jumped_s = seconds


async def cut(machine: Machine) -> None:
    """A controller is cut off, or is there again."""
    machine.wire.is_cut = not machine.wire.is_cut


async def changes_mind(world: World, chance: Random) -> None:
    """The version turns bad, or nobody can say."""
    world.verdict = chance.choice([*Verdict])


async def interferes(world: World, chance: Random) -> None:
    """A person does something, allowed or not."""
    share = chance.choice([0, 500, 5_000, 20_000, 40_000])
    moves = (Move.PAUSE, Move.RESUME, Move.HALT, Move.KEEP)
    if chance.random() < 0.5:
        await world.person(lambda editor: editor.set_percentage(share))
    else:
        await world.person(lambda editor: editor.move_release(chance.choice(moves)))


async def recover(world: World, machines: list[Machine]) -> None:
    """Faults end, and people let it go on."""
    for machine in machines:
        machine.wire.is_cut = machine.wire.is_faulty = False
    for waiting in world.pending:
        if not waiting.done():
            waiting.set_result(None)
    world.pending.clear()
    for machine in machines:
        await machine.go_on()
    if world.verdict not in (Verdict.PASS, Verdict.FAIL):
        world.verdict = Verdict.PASS
    await world.person(lambda editor: editor.move_release(Move.RESUME))


def check_writes(world: World) -> None:
    """Every write that was accepted since the last check is one that the plan allows then."""
    for accepted in world.accepted[world.checked :]:
        check_write(world.plan, accepted)
    tokens = [accepted.write.token for accepted in world.accepted]
    assert tokens == sorted(tokens), "a controller acted after a newer one"
    world.checked = len(world.accepted)
    assert world.release.share in {*world.by_person, *(s.weight for s in world.plan.steps), 0}


def check_write(plan: Plan, accepted: Accepted) -> None:
    before, after = accepted.before, accepted.after
    above = [step for step in plan.steps if step.weight > before.share]
    reached = [step for step in plan.steps if step.weight <= before.share]
    do = accepted.write.action.do
    assert after.share <= max(before.share, above[0].weight if above else 0)
    assert after.share <= max(before.share, plan.max_weight)
    if do not in GIVES:
        assert after.share <= before.share
        return
    assert before.due_rollback is None
    assert not before.halted
    assert before.status is ReleaseStatus.IN_PROGRESS
    if do is Do.PROMOTE:
        assert not above
    if before.share:
        assert before.weight_since is not None
        held_s = (accepted.latest - before.weight_since).total_seconds()
        assert held_s >= (reached or above)[-1 if reached else 0].hold_s
