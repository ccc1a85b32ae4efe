"""Noting whom decisions are made for: bounded, told in time, nobody lost or counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pytest
from canary_engine import decide, parse
from canary_engine.decide import CompiledPolicy
from canary_engine.exposure import mark, who_of
from canary_engine.model import Decision, Request, Variant
from decision_svc.exposure.collector import Collector
from decision_svc.exposure.protocol import Served
from decision_svc.metrics import Metrics
from decision_svc.store.memory import MemoryStore
from decision_svc.store.protocol import StoreUnavailable

NOW = datetime(2026, 3, 1, tzinfo=UTC)
STABLE = Served("shop", "r-1", Variant.STABLE)


def a_policy(**fields: Any) -> CompiledPolicy:
    versions = [{"version": "v1", "status": "stable"}, {"version": "v2", "status": "canary"}]
    release = {"id": "r-1", "version": "v2", "status": "in-progress", "salt": "s"}
    document = {"service_key": "shop", "versions": versions, "release": release, **fields}
    return CompiledPolicy(parse.policy(document))


def see(collector: Collector, *users: str) -> None:
    compiled = a_policy()
    for user in users:
        request = Request(headers={"x-user-id": user})
        decision = decide.decide(compiled, request, None, NOW)
        assert isinstance(decision, Decision)
        collector.saw(compiled, request, decision)


class Away(MemoryStore):
    """A store that is gone until it is back."""

    is_gone = True

    async def expose(self, served: Served, marks: Collection[int], listed: bool) -> None:
        if self.is_gone:
            raise StoreUnavailable("gone")
        await super().expose(served, marks, listed)


def dropped(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("canary_exposure_dropped_total") or 0.0


async def test_users_wait_while_the_store_is_gone_and_what_has_no_room_is_counted() -> None:
    store, metrics = Away(), Metrics()
    collector = Collector(store, metrics, room=3)
    see(collector, "a", "b", "a")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await collector.flush()
    see(collector, "c", "d", "e")
    assert dropped(metrics) == 2
    store.is_gone = False
    await collector.flush()
    assert await store.exposed(STABLE) == 3
    see(collector, "f", "g", "h")
    await asyncio.gather(collector.flush(), collector.flush())
    assert await store.exposed(STABLE) == 6
    assert dropped(metrics) == 2


async def test_a_user_seen_here_and_by_a_gateway_is_one_user() -> None:
    store = MemoryStore()
    collector = Collector(store, Metrics())
    see(collector, "a")
    collector.heard(STABLE, [mark("shop", "r-1", "a"), mark("shop", "r-1", "b")])
    await collector.flush()
    assert await store.exposed(STABLE) == 2


def test_users_are_told_apart_by_their_id_then_by_the_hash_key_then_by_what_stays() -> None:
    who = who_of(a_policy().policy)
    everything = Request(headers={"x-user-id": "ann"}, consumer="firm", fallback_key="drawn")
    assert who(everything) == "ann"
    assert who(Request(consumer="firm", fallback_key="drawn")) == "firm"
    assert who(Request(cookies={"canary_id": "cookie"}, fallback_key="drawn")) == "cookie"
    assert who(Request(fallback_key="drawn")) == "drawn"
    per_request = who_of(a_policy(bucketing={"anonymous": "per-request"}).policy)
    assert per_request(Request(fallback_key="drawn")) == ""


def test_the_same_user_has_another_mark_in_every_release() -> None:
    found = {mark("shop", "r-1", "a"), mark("shop", "r-2", "a"), mark("bakery", "r-1", "a")}
    assert len(found) == 3
    assert all(0 <= one < 2**64 for one in found)


@pytest.mark.parametrize("release", [{"halted": True}, {"status": "completed"}])
def test_nobody_is_told_apart_while_nothing_is_read_of_requests(release: dict[str, Any]) -> None:
    """Each request without a cookie would be a user of its own: ten thousand of a hundred."""
    usual = {"id": "r-1", "version": "v2", "status": "in-progress", "salt": "s"}
    who = who_of(a_policy(release={**usual, **release}).policy)
    assert who(Request(fallback_key="drawn")) == ""
