"""What a controller needs of the service: leases, records, and what is new of releases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2 as pb
from canary.decision.v1 import decision_pb2 as decision_pb
from canary.policy.v1 import policy_pb2 as policy_pb
from canary.record.v1 import record_pb2
from redis import Redis
from support.calls import SHOP, Calls, a_change, ready_service, refused, until
from support.redis_server import RedisServer, running_redis

DRAWN, CONTROL = policy_pb.COHORT_DRAWN, policy_pb.COHORT_CONTROL
CHOSEN, OTHER = policy_pb.COHORT_CHOSEN, policy_pb.COHORT_UNSPECIFIED
PROMOTE, ROLL_BACK = pb.MOVE_PROMOTE, pb.MOVE_ROLL_BACK


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "memory":
        return {}
    server: RedisServer = request.getfixturevalue("redis")
    with Redis.from_url(server.url) as client:
        client.flushall()
    return {"redis_url": server.url, "store_deadline_ms": 10_000}


@pytest.fixture
async def shop(store: dict[str, Any]) -> AsyncIterator[Calls]:
    async with ready_service(**store) as calls:
        yield calls


@pytest.fixture
async def replica(shop: Calls, store: dict[str, Any]) -> AsyncIterator[Calls]:
    """Another service on the same store; the same where that is memory."""
    if not store:
        yield shop
        return
    async with ready_service(**store, compare_every_ms=10) as calls:
        yield calls


async def plan(calls: Calls, service_key: str = SHOP) -> None:
    step = policy_pb.PlanStep(weight=20)
    policy = policy_pb.Policy(service_key=service_key, plan=policy_pb.Plan(steps=[step]))
    request = pb.ApplyRequest(change=a_change(service_key), policy=policy)
    await calls.admin.Apply(request)


async def release_id(calls: Calls, service_key: str = SHOP) -> str:
    return str((await calls.policy(service_key))["release"]["id"])


async def follow(calls: Calls, *known: tuple[str, int, int]) -> pb.FollowReleasesResponse:
    followed = [pb.Followed(service_key=k, revision=r, slot=s) for k, r, s in known]
    answer: pb.FollowReleasesResponse = await calls.admin.FollowReleases(
        pb.FollowReleasesRequest(followed=followed)
    )
    return answer


async def keys(calls: Calls) -> list[str]:
    return [found.service_key for found in (await follow(calls)).releases]


def a_series(
    release: str, cohort: int, status: int = 200, **more: Any
) -> decision_pb.OutcomeSeries:
    is_control = cohort == CONTROL
    fields: dict[str, Any] = {
        "service_key": SHOP,
        "version": "v1" if is_control else "v2",
        "variant": policy_pb.VARIANT_STABLE if is_control else policy_pb.VARIANT_CANARY,
        "release_id": release,
        "cohort": cohort,
        "statuses": {status: 3},
        "request": decision_pb.LatencyHistogram(buckets=[0, 300], counts=[1, 2], sum_us=99),
        "lost": 1,
    }
    return decision_pb.OutcomeSeries(**(fields | more))


async def report(calls: Calls, batch_id: str, *series: decision_pb.OutcomeSeries) -> None:
    request = decision_pb.ReportOutcomesRequest(batch_id=batch_id, series=series)
    answer = await calls.decision.ReportOutcomes(request)
    assert not answer.unknown_service_keys


async def put(calls: Calls, release: str, fence: int = 1, **fields: Any) -> None:
    record = record_pb2.ReleaseRecord(service_key=SHOP, release_id=release, fence=fence, **fields)
    await calls.admin.PutRecord(pb.PutRecordRequest(record=record))


async def hold(calls: Calls, holder: str, **fields: Any) -> pb.HoldLeaseResponse:
    asked: dict[str, Any] = {"name": "controller", "holder": holder, "valid_s": 60} | fields
    answer: pb.HoldLeaseResponse = await calls.admin.HoldLease(pb.HoldLeaseRequest(**asked))
    return answer


async def test_of_two_controllers_one_holds_the_lease_until_it_drops_it(
    shop: Calls, replica: Calls
) -> None:
    one, other = await hold(shop, "one"), await hold(replica, "other")
    assert (one.is_held, one.holder, one.token, one.left_ms) == (True, "one", 1, 60_000)
    assert (other.is_held, other.holder, other.token) == (False, "one", 1)
    assert 0 < other.left_ms <= 60_000
    await replica.admin.DropLease(pb.DropLeaseRequest(name="controller", holder="other"))
    assert not (await hold(replica, "other")).is_held
    await shop.admin.DropLease(pb.DropLeaseRequest(name="controller", holder="one"))
    other = await hold(replica, "other")
    assert (other.is_held, other.token) == (True, 2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "name: give one of 1 to 255 characters"),
        ({"holder": "h" * 256}, "holder: give one of 1 to 255 characters"),
        ({"valid_s": 0}, "valid_s: give 1 to 300 seconds"),
        ({"valid_s": 301}, "valid_s: give 1 to 300 seconds"),
    ],
)
async def test_a_lease_without_bounds_is_refused(fields: dict[str, Any], words: str) -> None:
    async with ready_service() as calls:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, words):
            await hold(calls, **({"holder": "one"} | fields))


async def test_a_record_is_what_was_put_last_and_the_latest_release_is_meant(
    shop: Calls, replica: Calls
) -> None:
    await shop.release(5)
    id_ = await release_id(shop)
    await put(shop, id_, waits_for="a minute")
    await put(shop, id_, waits_for="a person", verdict=record_pb2.VERDICT_PASS)
    for asked in ("", id_):
        request = pb.GetRecordRequest(service_key=SHOP, release_id=asked)
        await until(lambda: is_known(replica))
        record = (await replica.admin.GetRecord(request)).record
        assert (record.waits_for, record.release_id) == ("a person", id_)
        assert record.verdict == record_pb2.VERDICT_PASS


async def is_known(calls: Calls) -> bool:
    return bool((await calls.admin.ListServices(pb.ListServicesRequest())).services)


async def test_a_controller_that_is_too_late_notes_nothing(shop: Calls) -> None:
    await shop.release(5)
    id_ = await release_id(shop)
    await put(shop, id_, fence=4, waits_for="a person")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "3 is too late", "with 4"):
        await put(shop, id_, fence=3)
    record = (await shop.admin.GetRecord(pb.GetRecordRequest(service_key=SHOP))).record
    assert (record.fence, record.waits_for) == (4, "a person")


async def test_records_that_cannot_be_are_refused(shop: Calls) -> None:
    await shop.release(5)
    id_ = await release_id(shop)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "record.fence"):
        await put(shop, id_, fence=0)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "record.release_id"):
        await put(shop, "")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "give at most 1,048,576", "thin the points"):
        await put(shop, id_, evidence="e" * (1 << 20))
    with refused(grpc.StatusCode.NOT_FOUND, "nothing is noted of release"):
        await shop.admin.GetRecord(pb.GetRecordRequest(service_key=SHOP))
    with refused(grpc.StatusCode.NOT_FOUND, "there is no policy of 'bakery'"):
        await shop.admin.GetRecord(pb.GetRecordRequest(service_key="bakery"))
    record = record_pb2.ReleaseRecord(service_key="bakery", release_id="r-1", fence=1)
    with refused(grpc.StatusCode.NOT_FOUND, "there is no policy of 'bakery'"):
        await shop.admin.PutRecord(pb.PutRecordRequest(record=record))


async def test_releases_in_force_are_followed_and_a_policy_is_told_once(shop: Calls) -> None:
    assert await keys(shop) == []
    await shop.register("v1", "bakery", status=policy_pb.VERSION_STATUS_STABLE)
    revision = await shop.release(5)
    (found,) = (await follow(shop)).releases
    assert (found.service_key, found.revision) == (SHOP, revision)
    assert found.policy.release.percentage == 5
    (again,) = (await follow(shop, (SHOP, revision, 0))).releases
    assert (again.revision, again.HasField("policy")) == (revision, False)
    raised = await shop.change("SetPercentage", percentage=10)
    (again,) = (await follow(shop, (SHOP, revision, 0))).releases
    assert (again.revision, again.policy.release.percentage) == (raised, 10)


async def test_an_ended_release_is_followed_until_its_record_is_closed(shop: Calls) -> None:
    await shop.release(5)
    await plan(shop)
    id_ = await release_id(shop)
    await shop.change("MoveRelease", move=ROLL_BACK)
    assert await keys(shop) == [SHOP]
    await put(shop, id_)
    assert await keys(shop) == [SHOP]
    await put(shop, id_, is_closed=True)
    assert await keys(shop) == []
    await shop.change("StartRelease", version="v2", percentage=1, despite_rollback="a test")
    assert await keys(shop) == [SHOP]


async def test_an_ended_release_that_has_no_plan_is_followed_only_if_anything_is_noted_of_it(
    shop: Calls,
) -> None:
    await shop.release(5)
    id_ = await release_id(shop)
    await shop.change("MoveRelease", move=PROMOTE)
    assert await keys(shop) == []
    await put(shop, id_)
    assert await keys(shop) == [SHOP]


async def test_outcomes_of_the_compared_cohorts_are_told_slot_by_slot(
    shop: Calls, replica: Calls
) -> None:
    await shop.release(5)
    id_ = await release_id(shop)
    await until(lambda: is_known(replica))
    await report(shop, "a", a_series(id_, DRAWN), a_series(id_, CONTROL), a_series(id_, OTHER))
    await report(replica, "b", a_series(id_, DRAWN, 500), a_series("r-0", DRAWN))
    await report(replica, "c", a_series(id_, CHOSEN))
    await report(replica, "a", a_series(id_, DRAWN))  # the answer to it was lost
    answer = await follow(shop)
    (found,) = answer.releases
    assert found.more_after == 0
    by_cohort: dict[int, dict[int, int]] = {}
    for outcome in found.outcomes:
        series = outcome.series
        assert abs(outcome.slot - answer.now.seconds // 10) <= 1
        assert (series.release_id, list(series.request.buckets)) == (id_, [0, 300])
        statuses = by_cohort.setdefault(series.cohort, {})
        for status, number in series.statuses.items():
            statuses[status] = statuses.get(status, 0) + number
    assert by_cohort == {DRAWN: {200: 3, 500: 3}, CONTROL: {200: 3}, CHOSEN: {200: 3}}
    newest = found.outcomes[-1].slot
    (found,) = (await follow(shop, (SHOP, 0, newest))).releases
    assert not found.outcomes


async def test_slots_of_which_all_was_heard_are_not_told_again(shop: Calls) -> None:
    await shop.release(5)
    id_ = await release_id(shop)
    await report(shop, "a", a_series(id_, DRAWN), a_series(id_, CONTROL))
    (found,) = (await follow(shop)).releases
    slot = found.outcomes[0].slot
    heard = pb.Followed(service_key=SHOP, slot=slot - 1, requests=[6])
    request = pb.FollowReleasesRequest(followed=[heard])
    (found,) = (await shop.admin.FollowReleases(request)).releases
    assert not found.outcomes
    await report(shop, "b", a_series(id_, CONTROL))
    (found,) = (await shop.admin.FollowReleases(request)).releases
    assert found.outcomes


async def test_slots_are_told_oldest_first_and_not_those_before_the_release(shop: Calls) -> None:
    await shop.release(5)
    id_ = await release_id(shop)
    await report(shop, "a", *(a_series(id_, DRAWN, age_s=age_s) for age_s in (500, 0, 5)))
    told = list((await follow(shop)).releases[0].outcomes)
    slots = [outcome.slot for outcome in told]
    assert slots == sorted(slots)
    # An age is right to within five seconds: what seems to be from just before is told, too.
    assert sum(outcome.series.statuses[200] for outcome in told) == 2 * 3
