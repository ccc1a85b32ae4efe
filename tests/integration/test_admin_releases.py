"""The life of a release through the admin API: moves, guards, consent, going back, halting all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from time import process_time
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2 as pb
from canary.decision.v1 import decision_pb2
from canary.policy.v1 import policy_pb2
from canary_documents import to_message
from canary_engine import parse
from canary_engine.model import Strategy
from canary_engine.plan_reading import LONGEST_S
from decision_svc import changes
from decision_svc.editor import Editor, Who
from decision_svc.halting import Halting
from decision_svc.metrics import Metrics
from decision_svc.snapshot import Snapshot
from decision_svc.store.memory import MemoryStore
from decision_svc.store.protocol import ChangeRecord
from decision_svc.store.redis import RedisStore
from redis.asyncio import Redis
from support.calls import CANARY, SHOP, STABLE, Calls, a_rule, facts_of, ready_service, refused
from support.redis_server import RedisServer, running_redis

ABORTED, FAILED = grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION
START = policy_pb2.APPROVED_MOVE_START
RAISE = policy_pb2.APPROVED_MOVE_RAISE
PROMOTE = policy_pb2.APPROVED_MOVE_PROMOTE
WIDEN = policy_pb2.APPROVED_MOVE_WIDEN
AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Calls]:
    if request.param == "memory":
        async with ready_service() as calls:
            yield calls
        return
    with running_redis() as server:
        async with ready_service(redis_url=server.url, store_deadline_ms=10_000) as calls:
            yield calls


async def as_(actor: str, shop: Calls, method: str, **fields: Any) -> Any:
    """A write by somebody, and its whole answer."""
    change = pb.Change(service_key=SHOP, actor=actor, reason="a test")
    request = getattr(pb, method + "Request")(change=change, **fields)
    return await getattr(shop.admin, method)(request)


async def move(shop: Calls, which: pb.Move.ValueType, **more: Any) -> int:
    return await shop.change("MoveRelease", move=which, **more)


async def guard(shop: Calls, *freezes: policy_pb2.Freeze, **approvals: Any) -> int:
    rules = policy_pb2.ApprovalRules(**approvals)
    return await shop.change(
        "SetGuards", guards=policy_pb2.Guards(approvals=rules, freezes=freezes)
    )


def a_freeze(name: str = "winter") -> policy_pb2.Freeze:
    """One that holds now, whatever the time zone."""
    start, end = (datetime.now(UTC) + timedelta(days=days) for days in (-2, 2))
    local = "%Y-%m-%dT%H:%M"
    return policy_pb2.Freeze(
        name=name,
        start=start.strftime(local),
        end=end.strftime(local),
        time_zone="Asia/Shanghai",
        reason="春节",
    )


async def state(shop: Calls) -> tuple[str, bool, float, dict[str, str]]:
    policy = await shop.policy()
    found = policy["release"]
    statuses = {v["version"]: v.get("status", "") for v in policy["versions"]}
    return found["status"], found.get("halted", False), found.get("percentage", 0), statuses


async def version(shop: Calls, user: str = "u1") -> str:
    return (await shop.decide(**facts_of(user))).version


# Life


async def test_a_release_is_paused_resumed_halted_and_promoted(shop: Calls) -> None:
    running = {STABLE: "stable", CANARY: "canary"}
    before = await shop.release(100)
    assert await move(shop, pb.MOVE_PAUSE) == before + 1
    assert await state(shop) == ("paused", False, 100, running)
    assert await version(shop) == CANARY
    with refused(FAILED, "cannot promote", "is paused", "allowed are: lower, resume, halt"):
        await move(shop, pb.MOVE_PROMOTE)
    await move(shop, pb.MOVE_RESUME)
    await move(shop, pb.MOVE_HALT)
    assert await state(shop) == ("in-progress", True, 100, running)
    assert await version(shop) == STABLE
    await move(shop, pb.MOVE_RESUME)
    assert await version(shop) == CANARY
    last = await move(shop, pb.MOVE_PROMOTE)
    promoted = {STABLE: "deprecated", CANARY: "stable"}
    assert await state(shop) == ("completed", False, 100, promoted)
    assert await version(shop) == CANARY
    assert (await shop.policy())["revision"] == last == before + 5
    summaries = [change.summary for change in await shop.changes(limit=3)]
    assert summaries == ["promote release", "resume release", "halt release"]


async def test_a_rollback_is_put_off_for_as_long_as_a_plan_can_say(shop: Calls) -> None:
    """Or the rollback of a plan that says more would be refused for ever."""
    await shop.release(5)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "delay_s: at most"):
        await move(shop, pb.MOVE_ROLL_BACK, delay_s=LONGEST_S + 1)
    await move(shop, pb.MOVE_ROLL_BACK, delay_s=LONGEST_S)
    assert "due_rollback" in (await shop.policy())["release"]


async def test_a_version_that_was_rolled_back_starts_again_for_a_reason_that_is_kept(
    shop: Calls,
) -> None:
    await shop.release(5)
    await move(shop, pb.MOVE_ROLL_BACK)
    again: dict[str, Any] = {"version": CANARY, "percentage": 1}
    with refused(FAILED, "'v2' was rolled back on", "despite_rollback"):
        await shop.change("StartRelease", **again)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "despite_rollback: say why"):
        await shop.change("StartRelease", **again, despite_rollback="  ")
    await shop.change("StartRelease", **again, despite_rollback="it was the load test")
    newest = (await shop.changes(limit=1))[0]
    assert newest.summary == (
        "start release of v2 at 1 %; although rolled back: it was the load test"
    )
    await move(shop, pb.MOVE_ABANDON)
    with refused(FAILED, "rolled back"):
        await shop.change("StartRelease", **again)


async def test_a_version_that_breaks_a_rule_starts_only_for_a_reason(shop: Calls) -> None:
    await shop.register(STABLE, status=policy_pb2.VERSION_STATUS_STABLE)
    await shop.register(CANARY)
    rule = to_message(
        {"from": STABLE, "to": CANARY, "notes": "v1 was removed"}, policy_pb2.CompatibilityRule
    )
    await shop.change("SetCompatibility", compatibility=policy_pb2.Compatibility(rules=[rule]))
    with refused(FAILED, "v1 -> v2 (v1 was removed)", "despite_incompatible"):
        await shop.change("StartRelease", version=CANARY, percentage=1)
    await shop.change(
        "StartRelease", version=CANARY, percentage=1, despite_incompatible="nobody is on v1"
    )
    assert "although incompatible: nobody is on v1" in (await shop.changes(limit=1))[0].summary


@pytest.mark.parametrize("which", [m for m in pb.Move.values() if m])
async def test_there_is_nothing_to_move_without_a_release(which: pb.Move.ValueType) -> None:
    async with ready_service() as shop:
        with refused(FAILED, "no release was started; start one first"):
            await move(shop, which)
        await shop.register(STABLE, status=policy_pb2.VERSION_STATUS_STABLE)
        with refused(FAILED, "no release was started; start one first"):
            await move(shop, which)
        with refused(FAILED, "'v9' is not registered: register it first"):
            await shop.change("StartRelease", version="v9", percentage=1)
        with refused(FAILED, "'v1' is stable: it cannot be released"):
            await shop.change("StartRelease", version=STABLE, percentage=1)
        assert (await shop.policy())["revision"] == 1


async def test_names_in_chinese_go_through_the_whole_life(shop: Calls) -> None:
    await shop.register("稳定版", status=policy_pb2.VERSION_STATUS_STABLE)
    await shop.register("金丝雀")
    await guard(shop, promote=True)
    await as_("张伟", shop, "StartRelease", version="金丝雀", percentage=100)
    with refused(FAILED, "somebody other than 张伟", "approve shop promote 金丝雀"):
        await as_("张伟", shop, "MoveRelease", move=pb.MOVE_PROMOTE)
    await as_("李娜", shop, "Approve", move=PROMOTE, version="金丝雀")
    await as_("张伟", shop, "MoveRelease", move=pb.MOVE_PROMOTE)
    assert await version(shop) == "金丝雀"


# Two operators at once


async def test_who_loses_a_race_is_told_who_changed_what_since(shop: Calls) -> None:
    before = await shop.release(5)
    await as_("kim", shop, "SetPercentage", percentage=25)
    await as_("张伟", shop, "MoveRelease", move=pb.MOVE_PAUSE)
    with refused(
        ABORTED,
        f"shop is at revision {before + 2}, not {before}",
        f"revision {before + 2} by 张伟: pause release",
        f"revision {before + 1} by kim: set percentage to 25 %",
    ):
        await move(shop, pb.MOVE_PROMOTE, expected=before)
    for percentage in (20, 15, 10):
        await as_("kim", shop, "SetPercentage", percentage=percentage)
    with refused(ABORTED, "set percentage to 10 %", "set percentage to 20 %; and more before"):
        await move(shop, pb.MOVE_PROMOTE, expected=before)


async def test_of_promote_and_roll_back_at_once_one_wins_and_the_other_is_told(
    redis: RedisServer,
) -> None:
    url = f"{redis.url}?db=1"
    more = {"redis_url": url, "store_deadline_ms": 10_000}
    async with ready_service(**more) as one, ready_service(**more) as two:
        for number in range(10):
            await one.register(f"v{number}")
            at = await one.change("StartRelease", version=f"v{number}", percentage=5)
            found = await asyncio.gather(
                move(one, pb.MOVE_PROMOTE, expected=at),
                move(two, pb.MOVE_ROLL_BACK, expected=at),
                return_exceptions=True,
            )
            (lost,) = (error for error in found if isinstance(error, grpc.aio.AioRpcError))
            won = "promote" if found[0] == at + 1 else "roll back"
            assert lost.code() is ABORTED
            assert f"revision {at + 1} by ada: {won} release" in (lost.details() or "")
            status = (await two.policy())["release"]["status"]
            assert status == {"promote": "completed", "roll back": "rolled-back"}[won]


# Freezes


async def test_in_a_freeze_nothing_is_given_and_everything_can_be_taken(shop: Calls) -> None:
    await shop.release(50)
    await guard(shop, a_freeze())
    frozen = ("frozen by 'winter' until", "Asia/Shanghai (春节)")
    with refused(FAILED, "cannot raise", *frozen):
        await shop.change("SetPercentage", percentage=51)
    with refused(FAILED, "cannot promote", *frozen):
        await move(shop, pb.MOVE_PROMOTE)
    await shop.change("SetPercentage", percentage=49)
    await move(shop, pb.MOVE_HALT)
    with refused(FAILED, "cannot raise", *frozen):
        await move(shop, pb.MOVE_RESUME)
    await move(shop, pb.MOVE_ROLL_BACK)
    await shop.register("v3")
    with refused(FAILED, "cannot start", *frozen):
        await shop.change("StartRelease", version="v3", percentage=0)
    await guard(shop)
    await shop.change("StartRelease", version="v3", percentage=0)


async def test_a_file_cannot_point_stable_at_the_canary_past_freeze_and_consent(
    shop: Calls,
) -> None:
    await shop.release(0)
    new = policy_pb2.Backend(upstream="canary.yyc3-xy-api")
    file = policy_pb2.Policy(versions=[policy_pb2.Version(version=STABLE, backend=new)])
    await guard(shop, start=True, promote=True, above=1)
    with refused(FAILED, "which is stable: it needs the consent of somebody other than ada"):
        await shop.change("Apply", policy=file, fields=["versions"])
    await as_("ann", shop, "Approve", move=PROMOTE, version=STABLE)
    await guard(shop, a_freeze(), start=True, promote=True, above=1)
    with refused(FAILED, f"cannot change the backend of {STABLE}", "frozen by 'winter'"):
        await shop.change("Apply", policy=file, fields=["versions"])
    with refused(FAILED, f"cannot change the backend of {STABLE}", "frozen by 'winter'"):
        await shop.change("Apply", policy=file, fields=["versions"], dry_run=True)
    await guard(shop, start=True, promote=True, above=1)
    await shop.change("Apply", policy=file, fields=["versions"])
    assert (await shop.decide(**facts_of("u1"))).backend.upstream == new.upstream
    assert not (await shop.policy()).get("approvals")


async def test_in_a_freeze_no_rule_list_or_member_gives_more_people_the_canary(
    shop: Calls,
) -> None:
    await shop.change(
        "PutSegment", segment=policy_pb2.Segment(name="s", canary_eligible=True, listed=True)
    )
    await shop.release(1)
    await guard(shop, a_freeze())
    everybody = policy_pb2.Rule(
        name="all",
        source=policy_pb2.SOURCE_PATH,
        pattern=".*",
        variant=policy_pb2.VARIANT_CANARY,
    )
    with refused(FAILED, "cannot change rules, which may give more people", "frozen by 'winter'"):
        await shop.change("AddRule", rule=everybody)
    with refused(FAILED, "cannot change whitelist", "frozen by 'winter'"):
        await shop.change("AddToWhitelist", entries=policy_pb2.Whitelist(users=["u1"]))
    with refused(FAILED, "cannot change members", "frozen by 'winter'"):
        await shop.change("AddMembers", segment="s", users=["u1"])
    await guard(shop, widen=True)
    with refused(FAILED, "cannot change rules", f"canaryctl approve {SHOP} widen {CANARY}"):
        await shop.change("AddRule", rule=everybody)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "percentage: nobody can tell"):
        await as_("ann", shop, "Approve", move=WIDEN, version=CANARY, percentage=5)
    await as_("ann", shop, "Approve", move=WIDEN, version=CANARY)
    await shop.change("AddRule", rule=everybody)
    assert (await shop.decide(**facts_of("u1"), path="/x")).version == CANARY
    await guard(shop, a_freeze(), widen=True)
    everybody.variant, everybody.name = policy_pb2.VARIANT_STABLE, "nobody"
    await shop.change("AddRule", rule=everybody)
    await shop.change("RemoveSegment", name="s")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"time_zone": "Europe/Atlantis"}, "time_zone: 'Europe/Atlantis' is unknown"),
        ({"start": "2026-12-20T00:00+01:00"}, "start: "),
        ({"start": "yesterday"}, "start: 'yesterday' is no local time"),
        ({"end": "2020-01-01T00:00"}, "end: give a time after the start"),
        ({"name": ""}, "name"),
    ],
)
async def test_a_freeze_that_makes_no_sense_is_refused(fields: dict[str, str], words: str) -> None:
    async with ready_service() as shop:
        freeze = a_freeze()
        freeze.MergeFrom(policy_pb2.Freeze(**fields))
        if not fields.get("name", "x"):
            freeze.name = ""
        with refused(grpc.StatusCode.INVALID_ARGUMENT, f"guards.freezes[0].{words}"):
            await guard(shop, freeze)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "freezes[1].name: 'winter' is taken"):
            await guard(shop, a_freeze(), a_freeze())


# Approvals


async def test_a_move_that_needs_two_people_is_made_once_somebody_else_consents(
    shop: Calls,
) -> None:
    await shop.register(STABLE, status=policy_pb2.VERSION_STATUS_STABLE)
    await shop.register(CANARY)
    await guard(shop, start=True, promote=True, above=25)
    start = {"version": CANARY, "percentage": 5}
    with refused(FAILED, "canaryctl approve shop start v2 --percentage 5"):
        await as_("kim", shop, "StartRelease", **start)
    await as_("kim", shop, "Approve", move=START, version=CANARY, percentage=5)
    with refused(FAILED, "somebody other than kim"):
        await as_("kim", shop, "StartRelease", **start)
    started = await as_("ada", shop, "StartRelease", **start)
    policy = await shop.policy()
    assert (policy["revision"], "approvals" in policy) == (started.revision, False)
    # Once used, it is used up; and below the limit nobody is asked.
    await as_("ada", shop, "SetPercentage", percentage=25)
    with refused(FAILED, "canaryctl approve shop raise v2 --percentage 50"):
        await as_("ada", shop, "SetPercentage", percentage=50)
    await as_("kim", shop, "Approve", move=RAISE, version=CANARY, percentage=50)
    with refused(FAILED, "--percentage 50.001"):
        await as_("ada", shop, "SetPercentage", percentage=50.001)
    await as_("ada", shop, "SetPercentage", percentage=50)
    await as_("ada", shop, "SetPercentage", percentage=10)
    with refused(FAILED, "canaryctl approve shop promote v2"):
        await as_("ada", shop, "MoveRelease", move=pb.MOVE_PROMOTE)
    await as_("kim", shop, "Approve", move=PROMOTE, version=CANARY)
    await as_("ada", shop, "MoveRelease", move=pb.MOVE_PROMOTE)
    assert "approvals" not in await shop.policy()


async def test_an_approval_says_who_and_until_when_and_can_be_withdrawn(shop: Calls) -> None:
    await shop.release(5)
    before = datetime.now(UTC)
    approved = await as_("ada", shop, "Approve", move=RAISE, version=CANARY, percentage=50)
    (found,) = (await shop.policy())["approvals"]
    assert (found["id"], found["by"], found["percentage"]) == (approved.id, "ada", 50)
    lasts = datetime.fromisoformat(found["expires_at"]) - before
    assert timedelta(days=1) <= lasts < timedelta(days=1, minutes=1)
    assert approved.id in (await shop.changes(limit=1))[0].summary
    other = await as_("ada", shop, "Approve", move=PROMOTE, version=CANARY, valid_s=60)
    assert other.id != approved.id
    await as_("kim", shop, "WithdrawApproval", id=approved.id)
    assert [a["id"] for a in (await shop.policy())["approvals"]] == [other.id]
    with refused(grpc.StatusCode.NOT_FOUND, f"no approval '{approved.id}'", other.id):
        await as_("kim", shop, "WithdrawApproval", id=approved.id)


async def test_there_are_never_more_than_a_hundred_approvals() -> None:
    async with ready_service() as shop:
        await shop.register(CANARY)
        for _ in range(100):
            await as_("ada", shop, "Approve", move=PROMOTE, version=CANARY)
        with refused(FAILED, "there are 100 approvals"):
            await as_("ada", shop, "Approve", move=PROMOTE, version=CANARY)


# Going back


async def test_going_back_makes_a_new_revision_that_says_what_the_old_one_said(
    shop: Calls,
) -> None:
    old = await shop.release(5)
    await shop.change("AddRule", rule=a_rule("mistake"))
    last = await shop.change("SetPercentage", percentage=4)
    # To 5 % it goes by itself: nobody guards it.
    assert await shop.change("Revert", revision=old) == last + 1
    assert await shop.policy() == {
        **await shop.policy(revision=old),
        "revision": last + 1,
        "membership_epoch": 1,
    }
    newest = (await shop.changes(limit=1))[0]
    assert (newest.actor, newest.summary) == ("ada", f"revert to revision {old}")
    assert await shop.change("Revert", revision=old) == last + 1, "nothing is left to go back"
    with refused(ABORTED, f"by ada: revert to revision {old}"):
        await shop.change("Revert", revision=1, expected=last)


async def test_going_back_takes_no_guard_no_approval_no_revocation_and_no_rollback_back(
    shop: Calls,
) -> None:
    await shop.register(STABLE, status=policy_pb2.VERSION_STATUS_STABLE)
    old = await shop.register(CANARY)
    await shop.change("StartRelease", version=CANARY, percentage=5)
    started = (await shop.policy())["revision"]
    await move(shop, pb.MOVE_ROLL_BACK)
    await guard(shop, a_freeze(), start=True)
    await as_("kim", shop, "Approve", move=START, version=CANARY, percentage=100)
    await shop.change("Revert", revision=old)
    now = await shop.policy()
    assert now["guards"]["approvals"] == {"start": True}
    assert [f["name"] for f in now["guards"]["freezes"]] == ["winter"]
    assert [a["by"] for a in now["approvals"]] == ["kim"]
    assert "rollback_date" in now["versions"][1]
    with refused(FAILED, "cannot start: frozen"):
        await shop.change("Revert", revision=started)
    await guard(shop, start=True)
    # It starts again what was rolled back; the reason of going back is the reason for that.
    await shop.change("Revert", revision=started)
    now = await shop.policy()
    assert (now["release"]["status"], "approvals" in now) == ("in-progress", False)
    assert now["membership_epoch"] == 2


async def test_going_back_over_a_promotion_is_open_in_a_freeze_and_forward_again_is_not(
    shop: Calls,
) -> None:
    running = await shop.release(5)
    promoted = await move(shop, pb.MOVE_PROMOTE)
    await guard(shop, a_freeze(), promote=True)
    await shop.change("Revert", revision=running)
    assert await state(shop) == (
        "in-progress",
        False,
        5,
        {STABLE: "stable", CANARY: "canary"},
    )
    with refused(FAILED, "cannot promote: frozen"):
        await shop.change("Revert", revision=promoted)
    await guard(shop, promote=True)
    with refused(FAILED, "canaryctl approve shop promote v2"):
        await shop.change("Revert", revision=promoted)


# Halting all


async def test_all_releases_are_halted_in_one_call_and_halting_again_changes_nothing(
    shop: Calls,
) -> None:
    revisions = {key: await shop.release(50, key) for key in ("书店", "bar", "cafe")}
    await shop.register(STABLE, "idle")
    await shop.release(50, "over")
    await shop.change("MoveRelease", "over", move=pb.MOVE_ROLL_BACK)
    await shop.change("MoveRelease", "bar", move=pb.MOVE_PAUSE)
    await shop.change("MoveRelease", "cafe", move=pb.MOVE_HALT)
    request = pb.HaltAllRequest(actor="kim", reason="the database is slow")
    for _ in range(2):
        found = (await shop.admin.HaltAll(request)).services
        assert [(h.service_key, h.revision, h.trouble) for h in found] == [
            ("bar", revisions["bar"] + 2, ""),
            ("cafe", revisions["cafe"] + 1, ""),
            ("书店", revisions["书店"] + 1, ""),
        ]
    for key in revisions:
        assert (await shop.policy(key))["release"]["halted"]
    newest = (await shop.changes("书店", limit=1))[0]
    assert (newest.actor, newest.reason) == ("kim", "the database is slow")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "actor", "reason"):
        await shop.admin.HaltAll(pb.HaltAllRequest())


async def test_a_policy_that_is_spoiled_keeps_no_other_from_being_halted() -> None:
    with running_redis() as server:
        async with ready_service(redis_url=server.url, store_deadline_ms=10_000) as shop:
            for key in ("fine", "not-a-policy", "not-a-hash", "too"):
                await shop.release(50, key)
            client = Redis.from_url(server.url)
            await client.hset("canary:{not-a-policy}:policy", "document", '{"service_key": 7}')
            await client.delete("canary:{not-a-hash}:policy")
            await client.set("canary:{not-a-hash}:policy", "?")
            await client.aclose()
            request = pb.HaltAllRequest(actor="kim", reason="stop")
            found = (await shop.admin.HaltAll(request)).services
            assert {h.service_key: (h.revision, bool(h.trouble)) for h in found} == {
                "fine": (4, False),
                "not-a-policy": (0, True),
                "not-a-hash": (0, True),
                "too": (4, False),
            }


async def test_what_somebody_may_not_halt_is_told_and_goes_on() -> None:
    store, snapshot, who = MemoryStore(), Snapshot(), Who(actor="kim", reason="stop")
    editor = Editor(store, snapshot, Metrics(), clock=lambda: AT, new_id=lambda: "1")
    for key in ("mine", "theirs"):
        version = changes.register_version({"version": CANARY})
        await editor.change(key, None, who, "register", version)
        start = editor.start_release(CANARY, 5_000, Strategy.COMBINED, "")
        await editor.change(key, None, who, "start", start)
    found = await Halting(editor, store, snapshot).halt_all(who, lambda key: key == "mine")
    assert [(h.service_key, h.revision, h.trouble) for h in found] == [
        ("mine", 3, ""),
        ("theirs", 0, "your role does not allow it"),
    ]
    assert await store.revisions() == {"mine": 3, "theirs": 2}


# Ten thousand versions


async def test_of_ten_thousand_versions_gateways_hear_of_those_that_decide(
    redis: RedisServer,
) -> None:
    versions = [{"version": f"v{i}", "git_commit": f"{i:040x}"} for i in range(10_000)]
    document = parse.document(
        parse.policy({"service_key": "many", "revision": 1, "versions": versions})
    )
    record = ChangeRecord(revision=1, actor="ada", at=AT, reason="test", summary="import")
    store = RedisStore.connect(f"{redis.url}?db=3", timeout_s=10)
    await store.save("many", document, record)
    await store.aclose()
    async with ready_service(redis_url=f"{redis.url}?db=3", store_deadline_ms=10_000) as shop:
        started = process_time()
        await shop.change("StartRelease", "many", version="v7", percentage=5)
        await shop.change("SetPercentage", "many", percentage=100)
        await shop.change("MoveRelease", "many", move=pb.MOVE_PAUSE)
        # Far above what it takes; what it must not do is grow with the square of them. Others on
        # this machine do not count.
        assert process_time() - started < 10
        told = await anext(aiter(shop.watch("many")))
        assert told.policy.revision == 4
        assert [v.version for v in told.policy.versions] == ["v7"]
        assert told.ByteSize() < 500
        assert len((await shop.policy("many"))["versions"]) == 10_000
        assert (await shop.decide("many", **facts_of("u1"))).version == "v7"


async def test_gateways_hear_nothing_of_people(shop: Calls) -> None:
    await shop.release(5)
    await guard(shop, a_freeze(), promote=True)
    await as_("kim", shop, "Approve", move=PROMOTE, version=CANARY)
    told: decision_pb2.WatchPoliciesResponse = await anext(aiter(shop.watch(SHOP)))
    assert not told.policy.HasField("guards")
    assert not told.policy.approvals
    assert b"kim" not in told.SerializeToString()
    assert [v.version for v in told.policy.versions] == [STABLE, CANARY]
