"""Metrics from a real Prometheus server that scrapes a real target, and that fails midway."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest
from aiohttp import ClientSession, web
from canary_controller.sources.prometheus import MAX_BYTES, NoNumber, Prometheus, value_in
from canary_controller.sources.source import Measured, Target, onto
from canary_engine.metric_snapshot import MetricSnapshot, Users
from canary_engine.model import Variant
from canary_engine.plan import Metric, Query
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from support.calls import until
from support.prometheus_server import PrometheusServer, running_prometheus
from support.web import forever, serving

HOSTILE = "2.0\"} or vector(7) # \\ ' {{window}} `\n"
TARGET = Target(
    service_key="shop", release_id="r1", canary_version=HOSTILE, stable_version="1.0", window_s=60
)
OLD_S = 200.0


class Old(Collector):
    """A sample that says itself that it is from minutes ago."""

    def __init__(self) -> None:
        self.at = time.time() - OLD_S

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """See Collector."""
        family = GaugeMetricFamily("old_cpu", "Measured long ago.")
        family.add_metric([], 50.0, timestamp=self.at)
        yield family


@pytest.fixture(scope="module")
def prometheus() -> Iterator[PrometheusServer]:
    registry = CollectorRegistry()
    cpu = Gauge("cpu", "CPU in percent.", ("version", "pod"), registry=registry)
    cpu.labels(HOSTILE, "a").set(70)
    cpu.labels("1.0", "a").set(30)
    cpu.labels("1.0", "b").set(50)
    registry.register(Old())
    target, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        with running_prometheus(target.server_port) as server:
            yield server
    finally:
        target.shutdown()
        thread.join()
        target.server_close()


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


def query(promql: str, metric: Metric = Metric.CPU, name: str = "") -> Query:
    return Query(metric=metric, name=name, promql=promql)


CPU = query('avg(cpu{version="{{version}}"})')


def why(measured: Measured, variant: Variant = Variant.STABLE) -> str:
    (trouble,) = [trouble for trouble in measured.troubles if trouble.variant is variant]
    return trouble.why


async def measured(
    source: Prometheus,
    *queries: Query,
    is_it: Callable[[Measured], object] = lambda found: not found.troubles,
) -> Measured:
    """What it says, once that is what is expected.

    Before it has scraped, and after each scrape that was too slow on a busy machine, it knows of
    nothing.
    """
    found = [await source.measure(TARGET, queries or [CPU])]

    async def is_so() -> bool:
        found[:] = [await source.measure(TARGET, queries or [CPU])]
        return bool(is_it(found[0]))

    await until(is_so)
    return found[0]


async def test_both_sides_come_in_one_go_whatever_their_names_hold(
    prometheus: PrometheusServer, session: ClientSession
) -> None:
    found = await measured(
        Prometheus(session, prometheus.url),
        CPU,
        query("count(cpu{version='{{version}}'}) # by pod", Metric.CUSTOM, "pods"),
        query("max_over_time(cpu{version='{{ version }}', pod=\"a\"}[{{window}}])", Metric.MEMORY),
        query('vector(1) * scalar(cpu{pod="a", version="{{version}}"})', Metric.THROUGHPUT),
    )
    assert found.troubles == ()
    pods = (Metric.CUSTOM, "pods")
    assert found.canary == {
        (Metric.CPU, ""): 70.0, pods: 1.0, (Metric.MEMORY, ""): 70.0, (Metric.THROUGHPUT, ""): 70.0,
    }  # fmt: skip
    assert found.stable == {
        (Metric.CPU, ""): 40.0, pods: 2.0, (Metric.MEMORY, ""): 30.0, (Metric.THROUGHPUT, ""): 30.0,
    }  # fmt: skip
    snapshot = onto(MetricSnapshot(users=Users(satisfaction=4.0)), found.of(Variant.CANARY))
    assert (snapshot.performance.cpu, snapshot.custom) == (70.0, {"pods": 1.0})
    assert snapshot.users.satisfaction == 4.0


@pytest.mark.parametrize(
    ("promql", "said"),
    [
        ('cpu{version="{{version}}"}', "gave 2 samples; aggregate them"),
        ('cpu{version="nobody"}', "gave no sample"),
        ("vector(0) / vector(0)", "gave nan"),
        ("vector(1) / vector(0)", "gave inf"),
        ("old_cpu", "s old; no more than 150 s are allowed"),
        ("avg(cpu", "Prometheus refused the query: bad_data"),
        ("1", "Prometheus refused the query: bad_data"),
        ('cpu{version="1.0"}[1m]', "Prometheus refused the query: bad_data"),
        ("cpu_{{version}}", "stands outside of a string"),
        ("cpu{version=`{{version}}`}", "in backquotes"),
        ('cpu{version="{{nonsense}}"}', "{{nonsense}} is unknown; there is {{service_key}}"),
    ],
)
async def test_what_gives_no_number_is_a_trouble_that_says_why(
    prometheus: PrometheusServer, session: ClientSession, promql: str, said: str
) -> None:
    source = Prometheus(session, prometheus.url)
    found = await measured(source, query(promql), is_it=lambda found: said in why(found))
    assert (Metric.CPU, "") not in found.stable
    is_empty = {trouble.is_empty for trouble in found.troubles if trouble.variant is Variant.STABLE}
    assert is_empty == {said in ("gave no sample", "gave nan", "gave inf")}


async def test_a_sample_that_is_old_counts_where_that_is_allowed(
    prometheus: PrometheusServer, session: ClientSession
) -> None:
    patient = Prometheus(session, prometheus.url, max_age_s=OLD_S * 2)
    assert (await measured(patient, query("old_cpu"))).stable == {(Metric.CPU, ""): 50.0}


async def test_one_bad_question_spoils_no_other(
    prometheus: PrometheusServer, session: ClientSession
) -> None:
    bad = query("avg(", Metric.MEMORY)
    source = Prometheus(session, prometheus.url)
    found = await measured(source, CPU, bad, is_it=lambda found: found.canary and found.stable)
    assert found.canary == {(Metric.CPU, ""): 70.0}
    assert {trouble.metric for trouble in found.troubles} == {Metric.MEMORY}


async def test_a_server_that_is_stopped_midway_is_a_trouble_until_it_is_back(
    prometheus: PrometheusServer, session: ClientSession
) -> None:
    source = Prometheus(session, prometheus.url)
    assert (await measured(source)).troubles == ()
    prometheus.stop()
    found = await source.measure(TARGET, [CPU])
    assert (found.canary, found.stable, len(found.troubles)) == ({}, {}, 2)
    assert "cannot be reached" in why(found)
    prometheus.start()
    assert (await measured(source)).troubles == ()


async def test_a_server_that_hangs_is_waited_for_no_longer_than_the_deadline(
    prometheus: PrometheusServer, session: ClientSession
) -> None:
    source = Prometheus(session, prometheus.url, deadline_s=0.2)
    prometheus.freeze()
    try:
        found = await source.measure(TARGET, [CPU])
    finally:
        prometheus.thaw()
    assert why(found) == "Prometheus did not answer within 0.2 s"


async def _huge(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b" " * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (web.Response(text="<html>please log in</html>"), "not JSON"),
        (web.Response(body=b"[" * 100_000), "not JSON"),
        (web.Response(text="[]"), "another shape"),
        (web.json_response({"status": "success"}), "another shape"),
        (web.json_response({"status": "success", "data": {"result": [{}]}}), "another shape"),
        (web.Response(status=401), "status 401"),
        (web.Response(status=302, headers={"Location": "/"}), "status 302"),
        (_huge, "more than 1,048,576 bytes"),
    ],
)
async def test_a_server_that_answers_nonsense_is_a_trouble(
    session: ClientSession, answer: Any, said: str
) -> None:
    async def always(request: web.Request) -> web.StreamResponse:
        if not isinstance(answer, web.Response):
            found: web.StreamResponse = await answer(request)
            return found
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    async with serving(always) as site:
        found = await Prometheus(session, site.url, deadline_s=30.0).measure(TARGET, [CPU])
    assert (found.canary, found.stable) == ({}, {})
    assert said in why(found)


async def test_a_server_that_never_answers_is_a_trouble(session: ClientSession) -> None:
    async with serving(forever) as site:
        found = await Prometheus(session, site.url, deadline_s=0.2).measure(TARGET, [CPU])
    assert (found.canary, found.stable) == ({}, {})
    assert "did not answer within 0.2 s" in why(found)


async def test_the_server_is_told_how_far_to_look_back(session: ClientSession) -> None:
    asked: list[str] = []

    async def notes(request: web.Request) -> web.StreamResponse:
        asked.append(str((await request.post())["lookback_delta"]))
        return web.json_response({})

    async with serving(notes) as site:
        await Prometheus(session, site.url, max_age_s=150).measure(TARGET, [CPU])
    assert asked == ["150000ms"] * 2


def test_the_oldest_of_the_moments_counts() -> None:
    body = (
        b'{"status": "success", "data": {"result": ['
        b'{"metric": {"canary_part": "value"}, "value": [1000, "5"]},'
        b'{"metric": {"canary_part": "moment"}, "value": [1000, "990"]}]}}'
    )
    assert value_in(body, now=1_000, max_age_s=10) == 5.0


def test_a_refusal_can_be_written_down_whatever_is_in_it() -> None:
    with pytest.raises(NoNumber, match=r"x\?y"):
        value_in(b'{"status": "error", "error": "x\\ud800y"}', now=0, max_age_s=1)
