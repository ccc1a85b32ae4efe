"""Control, exposure and shadows through the plugin, whoever decides: remote, local or alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_documents import to_document
from canary_engine.bucketing import bucket, prefix
from canary_engine.exposure import mark
from decision_svc.app import Running
from support import calls
from support.kong_side import KEY, Event, Kong
from support.nginx import nginx
from support.operators import Admin, administering
from support.plugin_stage import PATIENT, SEED, plugin
from support.service import running_service
from support.spy import Forward, Refusal, Spy, spying
from support.waiting import WITHIN_S, until

SOON: dict[str, Any] = {"outcomes": "syslog", "outcomes_every_s": 0.05}
DECIDERS = ("remote", "local", "alone")
SHARE, CONTROL = 20, 40
TESTER = {"name": "testers", "source": "header", "key": "x-tester", "exact": "yes"}
# What labelling a request costs beyond deciding about it.
LABEL = "service.request.set_headers"


async def refuse(request: pb.DecideRequest, forward: Forward) -> pb.DecideResponse:
    raise Refusal(grpc.StatusCode.UNAVAILABLE, "gone")


class Stage:
    """A gateway whose decisions are made as the test's parameter says."""

    def __init__(self, kong: Kong, spy: Spy, admin: Admin, stub: Any, instance: int) -> None:
        self.kong, self.spy, self.admin = kong, spy, admin
        self.stub, self.instance = stub, instance

    async def do(self, method: str, **fields: Any) -> None:
        """A change, and the plugin has heard of it."""
        await self.admin.do(method, **fields)
        await self.settled()

    async def settled(self) -> None:
        """Wait until the plugin decides by the newest policy."""
        revision = await self.admin.revision()
        await self.spy.heard(revision)
        async with asyncio.timeout(WITHIN_S):
            decided = -1
            while decided != revision:
                tester = await self.access("tester", **{"x-tester": "yes"})
                decided = tester.logged.get("policy_revision", -1)

    async def access(self, user: str, **headers: str) -> Event:
        return await self.kong.access(self.instance, {"x-user-id": user, **headers})

    async def call(self, method: str, request: Any) -> Any:
        return await getattr(self.stub, method)(request, timeout=WITHIN_S)

    async def exposed(self) -> dict[str, int]:
        """Users by variant."""
        answer = await self.call("GetExposure", admin_pb2.GetExposureRequest(service_key=KEY))
        return {to_document(e)["variant"]: e.users for e in answer.exposures}


@pytest.fixture(params=DECIDERS)
async def staged(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    async with staging(request.param) as stage:
        yield stage


@asynccontextmanager
async def staging(decider: str) -> AsyncIterator[Stage]:
    chosen = "local" if decider == "local" else "remote"
    async with (
        running_service() as running,
        administering(running) as admin,
        spying(running.decision_address) as (spy, address),
        channel_of(running) as stub,
    ):
        await admin.release(SHARE)
        await admin.do("AddRule", rule={**TESTER, "variant": "canary"})
        if decider == "alone":
            spy.decide = refuse
        async with plugin(address, decider=chosen, **SOON) as (kong, _):
            instance = await kong.start(SEED | PATIENT)
            stage = Stage(kong, spy, admin, stub, instance)
            await stage.settled()
            yield stage


@asynccontextmanager
async def channel_of(running: Running) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(running.admin_address) as channel:
        yield admin_pb2_grpc.AdminServiceStub(channel)


def a_user(low: int, high: int, number: int = 0) -> str:
    """The n-th user whose bucket lies there, in thousandths of a percent."""
    before = prefix("salt")
    found = (user for n in count() if low <= bucket(before, user := f"u{n}") < high)
    return next(user for n, user in enumerate(found) if n == number)


def drawn(number: int = 0) -> str:
    return a_user(0, 20_000, number)


def between(number: int = 0) -> str:
    return a_user(20_000, 60_000, number)


def control(number: int = 0) -> str:
    return a_user(60_000, 100_000, number)


async def test_control_costs_its_own_requests_a_label_and_the_rest_of_stable_nothing(
    staged: Stage,
) -> None:
    before = await staged.access(between())
    assert (await staged.access(control())).methods == before.methods
    await staged.do("SetPercentage", percentage=SHARE, control=CONTROL)
    rest = await staged.access(between())
    assert (rest.methods, rest.told, rest.logged) == (before.methods, {}, {})
    compared = await staged.access(control())
    assert compared.methods == [*before.methods, LABEL]
    assert (compared.variant, compared.upstream) == ("stable", "")


async def test_outcomes_arrive_with_their_cohorts(staged: Stage) -> None:
    await staged.do("SetPercentage", percentage=SHARE, control=CONTROL)
    chosen = {"x-tester": "yes"}
    sent: list[tuple[Callable[[int], str], dict[str, str], int]] = [
        *[(drawn, {}, 200)] * 3,
        *[(control, {}, 500)] * 4,
        *[(control, chosen, 404)] * 2,
        (drawn, chosen, 200),
    ]
    with nginx(Path(staged.kong.path).with_name("outcomes.sock")) as server:
        for number, (user, headers, status) in enumerate(sent):
            event = await staged.access(user(number), **headers)
            await server.log(event.told["x-canary-decision"], status)
        assert (await staged.access(between())).told == {}
        followed: Counter[tuple[str, int]] = Counter()
        async with asyncio.timeout(WITHIN_S):
            while followed.total() < len(sent):
                followed = await statuses(staged)
    assert followed == {
        ("drawn", 200): 3, ("control", 500): 4, ("chosen", 404): 2, ("chosen", 200): 1,
    }  # fmt: skip


async def statuses(staged: Stage) -> Counter[tuple[str, int]]:
    """Outcomes of the release by cohort and status, as a controller hears of them."""
    answer = await staged.call("FollowReleases", admin_pb2.FollowReleasesRequest())
    found: Counter[tuple[str, int]] = Counter()
    for release in answer.releases:
        for outcome in release.outcomes:
            cohort = to_document(outcome.series)["cohort"]
            found.update({(cohort, s): n for s, n in outcome.series.statuses.items()})
    return found


async def test_everybody_who_was_served_is_counted_once_whoever_decided(staged: Stage) -> None:
    users = [drawn(n) for n in range(5)] + [between(n) for n in range(7)]
    for _ in range(2):
        for user in users:
            await staged.access(user)
    exposed: dict[str, int] = {}
    async with asyncio.timeout(WITHIN_S):
        while sum(exposed.values()) < len(users) + 1:
            exposed = await staged.exposed()
    assert exposed == {"stable": 7, "canary": 5 + 1}, "the tester is one of them"


@pytest.mark.parametrize("staged", ["local", "alone"], indirect=True)
async def test_only_marks_leave_the_gateway(staged: Stage) -> None:
    user = drawn()
    await staged.access(user)
    release_id = (await staged.admin.policy()).release.id
    expected = mark(KEY, release_id, user)

    def told() -> set[int]:
        return {m for r in staged.spy.reports for served in r.served for m in served.marks}

    await until(lambda: expected in told())
    assert not [r for r in staged.spy.reports if user.encode() in r.SerializeToString()]


async def test_what_a_shadow_says_is_counted_whoever_decided(staged: Stage) -> None:
    await staged.do("SetPercentage", percentage=SHARE, control=CONTROL)
    policy = await staged.admin.policy()
    proposed = policy_pb2.Policy(service_key=KEY, versions=policy.versions)
    proposed.release.CopyFrom(policy.release)
    proposed.release.percentage, proposed.release.control = 60, 0
    await staged.do("SetShadow", policy=to_document(proposed), valid_s=3_600)
    before = await shadow_counts(staged)
    for number in range(4):
        await staged.access(between(number))
    pair = ("stable", "default", "canary", "percentage")

    async def newly_counted() -> int:
        return (await shadow_counts(staged))[pair] - before[pair]

    async def are_all_counted() -> bool:
        return await newly_counted() >= 4

    await calls.until(are_all_counted)
    assert await newly_counted() == 4


async def shadow_counts(staged: Stage) -> Counter[tuple[str, str, str, str]]:
    answer = await staged.call("GetShadow", admin_pb2.GetShadowRequest(service_key=KEY))
    names = ("in_force", "in_force_reason", "shadow", "shadow_reason")
    found: Counter[tuple[str, str, str, str]] = Counter()
    for one in answer.counts:
        document = to_document(one)
        in_force, why, shadow, its_why = (document[name] for name in names)
        found[in_force, why, shadow, its_why] = one.requests
    return found


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"served": [{"variant": 1, "marks": [1] * 10_001}]}, "served: at most 10,000 marks"),
        ({"served": [{}]}, r"served\[0\].variant: say which"),
        ({"served": [{"variant": 1, "release_id": "r" * 256}]}, r"served\[0\].release_id: at most"),
        ({"served": [{"variant": 1}] * 1_001}, "served: at most 1,000"),
        ({"shadows": [{}]}, r"shadows\[0\].in_force, shadow: say which"),
        ({"shadows": [{"in_force": 1, "shadow": 2}]}, r"shadows\[0\].in_force_reason, shadow_rea"),
    ],
)
async def test_notes_that_make_no_sense_are_refused(fields: dict[str, Any], complaint: str) -> None:
    async with (
        running_service() as running,
        grpc.aio.insecure_channel(running.decision_address) as channel,
    ):
        report = channel.unary_unary(
            "/canary.decision.v1.DecisionService/ReportOutcomes",
            pb.ReportOutcomesRequest.SerializeToString,
            pb.ReportOutcomesResponse.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError, match=complaint):
            await report(pb.ReportOutcomesRequest(batch_id="b", **fields), timeout=WITHIN_S)


async def test_notes_about_what_nobody_declares_are_passed_over() -> None:
    expires = datetime.now(UTC) + timedelta(hours=1)
    tally = pb.ShadowTally(
        service_key="nobody-s",
        in_force=policy_pb2.VARIANT_STABLE,
        shadow=policy_pb2.VARIANT_CANARY,
        in_force_reason=policy_pb2.REASON_NO_RELEASE,
        shadow_reason=policy_pb2.REASON_NO_RELEASE,
        requests=1,
    )
    tally.expires_at.FromDatetime(expires)
    served = pb.Served(
        service_key="nobody-s", release_id="r-1", variant=policy_pb2.VARIANT_STABLE, marks=[7]
    )
    async with (
        running_service() as running,
        grpc.aio.insecure_channel(running.decision_address) as channel,
        channel_of(running) as stub,
    ):
        report = channel.unary_unary(
            "/canary.decision.v1.DecisionService/ReportOutcomes",
            pb.ReportOutcomesRequest.SerializeToString,
            pb.ReportOutcomesResponse.FromString,
        )
        await report(pb.ReportOutcomesRequest(batch_id="b", served=[served], shadows=[tally]))
        request = admin_pb2.GetExposureRequest(service_key="nobody-s", release_id="r-1")
        with pytest.raises(grpc.aio.AioRpcError, match="nobody was counted for release 'r-1'"):
            await stub.GetExposure(request, timeout=WITHIN_S)
