"""Metrics that only others know: validated whole, kept where all replicas see them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from support.calls import SHOP, Calls, ready_service, refused, until
from support.redis_server import RedisServer, running_redis

SATISFACTION, REVENUE = policy_pb2.METRIC_SATISFACTION, policy_pb2.METRIC_REVENUE


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


def ago(**length: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) - timedelta(**length))
    return stamp


def a_metric(metric: int = SATISFACTION, value: float = 4, **more: Any) -> pb.ReportedMetric:
    fields: dict[str, Any] = {"metric": metric, "value": value, "version": "v2"} | more
    return pb.ReportedMetric(**fields)


async def tell(calls: Calls, *metrics: pb.ReportedMetric, key: str = SHOP, id_: str = "") -> int:
    request = pb.ReportMetricsRequest(service_key=key, metrics=metrics, report_id=id_)
    return int((await calls.admin.ReportMetrics(request)).accepted)


async def canary(calls: Calls) -> Any:
    answer = await calls.admin.GetMetrics(pb.GetMetricsRequest(service_key=SHOP))
    (found,) = answer.cohorts
    assert (found.cohort, found.version) == (policy_pb2.COHORT_DRAWN, "v2")
    return found.metrics


async def knows(calls: Calls, version: str) -> bool:
    services = (await calls.admin.ListServices(pb.ListServicesRequest())).services
    return any(found.release.version == version for found in services)


async def test_what_one_replica_is_told_all_replicas_show(redis: RedisServer) -> None:
    settings = {"redis_url": redis.url, "compare_every_ms": 10, "store_deadline_ms": 10_000}
    async with ready_service(**settings) as one, ready_service(**settings) as other:
        await one.release(5)
        await until(lambda: knows(other, "v2"))
        assert await tell(one, a_metric(value=5, count=3), a_metric(REVENUE, 10), id_="a") == 2
        assert await tell(other, a_metric(value=5, count=3), a_metric(REVENUE, 10), id_="a") == 0
        assert await tell(other, a_metric(value=1), a_metric(REVENUE, -2.5), id_="b") == 2
        for calls in (one, other):
            found = await canary(calls)
            assert (found.users.satisfaction, found.business.revenue) == (4, 7.5)
            assert not found.users.HasField("complaints")


async def test_a_report_may_be_up_to_a_quarter_of_an_hour_old() -> None:
    async with ready_service() as calls:
        await calls.release(5)
        assert await tell(calls, a_metric(at=ago(minutes=2)), a_metric(at=ago(minutes=14))) == 2
        assert (await canary(calls)).users.satisfaction == 4
        for at, words in ((ago(minutes=15.1), "within 15 minutes"), (ago(minutes=-2), "to come")):
            with refused(grpc.StatusCode.INVALID_ARGUMENT, "metrics[0].at", words):
                await tell(calls, a_metric(at=at))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"metric": 0}, "metric: give one of critical-errors, cpu"),
        ({"value": float("nan")}, "value: give a number"),
        ({"value": 1e16}, "value: give a number of at most 1e+15"),
        ({"value": 5.1}, "value: satisfaction is at most 5"),
        ({"version": ""}, "version: '' is not registered"),
        ({"count": 2**40}, "count: at most 1,000,000,000"),
        ({"metric": policy_pb2.METRIC_CUSTOM}, "name: a custom metric"),
        ({"metric": policy_pb2.METRIC_CUSTOM, "name": "n" * 101}, "name: at most 100"),
        ({"dimensions": {str(n): "x" for n in range(11)}}, "dimensions: at most 10"),
        ({"dimensions": {"region": ""}}, "dimensions: names and values have 1 to 100"),
    ],
)
async def test_a_number_that_cannot_be_is_refused_by_name(
    fields: dict[str, Any], words: str
) -> None:
    async with ready_service() as calls:
        await calls.release(5)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, f"metrics[1].{words}"):
            await tell(calls, a_metric(), a_metric(**fields))
        answer = await calls.admin.GetMetrics(pb.GetMetricsRequest(service_key=SHOP))
        assert not answer.cohorts


async def test_reports_about_nothing_or_nobody_are_refused() -> None:
    async with ready_service() as calls:
        with refused(grpc.StatusCode.NOT_FOUND, "there is no policy of 'shop'"):
            await tell(calls, a_metric())
        with refused(grpc.StatusCode.NOT_FOUND, "there is no policy of 'shop'"):
            await calls.admin.GetMetrics(pb.GetMetricsRequest(service_key=SHOP))
        await calls.register("v1")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "metrics: give 1 to 1,000"):
            await tell(calls)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "report_id: at most 64"):
            await tell(calls, a_metric(version="v1"), id_="i" * 65)
        answer = await calls.admin.GetMetrics(pb.GetMetricsRequest(service_key=SHOP))
        assert (answer.release_id, len(answer.cohorts)) == ("", 0)


async def test_too_many_series_are_refused_whole() -> None:
    async with ready_service() as calls:
        await calls.release(5)
        at = ago(minutes=1)  # so many are too many in one minute, and the next may begin meanwhile
        many = [a_metric(dimensions={"user": str(n)}, at=at) for n in range(1_000)]
        assert await tell(calls, *many) == 1_000
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "report fewer dimensions"):
            another = a_metric(dimensions={"user": "another"}, at=at)
            await tell(calls, a_metric(REVENUE, at=at), another)
        assert not (await canary(calls)).business.HasField("revenue")
