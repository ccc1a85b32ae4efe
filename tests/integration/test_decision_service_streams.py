"""DecideStream and WatchPolicies: many at once, nobody held up, nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2
from canary_plugin.deciders import frames
from support.calls import (
    CANARY,
    LIMIT_S,
    METERED,
    SHOP,
    STABLE,
    Calls,
    a_baseline,
    a_rule,
    ready_service,
    refused,
    service,
    until,
    until_so,
)
from support.redis_server import RedisServer, running_redis


@pytest.fixture
async def shop() -> AsyncIterator[Calls]:
    async with ready_service() as calls:
        yield calls


@pytest.fixture
async def metered() -> AsyncIterator[Calls]:
    async with ready_service(**METERED) as calls:
        yield calls


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


def numbered(id_: int, user: str = "", **fields: Any) -> pb.NumberedRequest:
    headers = {"x-user-id": user} if user else {}
    request = pb.DecideRequest(**{"service_key": SHOP, "headers": headers, **fields})
    return pb.NumberedRequest(id=id_, request=request)


async def answers(stream: Any, count: int) -> dict[int, pb.NumberedResponse]:
    """That many answers by id."""
    found: dict[int, pb.NumberedResponse] = {}
    async with asyncio.timeout(LIMIT_S):
        while len(found) < count:
            message = await stream.read()
            assert message is not grpc.aio.EOF, f"the stream ended after {sorted(found)}"
            for answer in message.responses:
                assert answer.id not in found
                found[answer.id] = answer
    return found


def own_tasks() -> set[str]:
    """What runs in this loop on behalf of streams and users."""
    names = (str(task.get_coro()) for task in asyncio.all_tasks())
    return {name for name in names if "_answer_late" in name or "_fetch" in name}


# DecideStream


async def test_many_requests_in_one_message_are_all_answered_by_id(shop: Calls) -> None:
    await shop.release(50)
    stream = shop.decision.DecideStream()
    await stream.write(
        pb.DecideStreamRequest(requests=[numbered(i, f"u{i}") for i in range(2_000)])
    )
    found = await answers(stream, 2_000)
    for i in (0, 1, 999, 1_999):
        assert found[i].response.decision == await shop.decide(headers={"x-user-id": f"u{i}"})
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() == grpc.StatusCode.OK


async def test_an_invalid_request_spoils_only_itself(shop: Calls) -> None:
    await shop.release(100)
    whole = a_baseline(100)
    forged = pb.Baseline(hash="forged", policy=whole.policy)
    time = policy_pb2.Policy(service_key=SHOP, versions=[policy_pb2.Version(version="v1")])
    time.versions[0].build_date.seconds = 1 << 60
    stream = shop.decision.DecideStream()
    await stream.write(
        pb.DecideStreamRequest(
            requests=[
                numbered(1, "u1"),
                numbered(2, baseline_hash="forged", baseline=forged),
                numbered(3, baseline_hash="empty", baseline=pb.Baseline()),
                numbered(4, baseline_hash=whole.hash, baseline=whole, service_key="other"),
                numbered(5, baseline_hash="x", baseline=pb.Baseline(hash="x", policy=time)),
                numbered(6, "u1"),
            ]
        )
    )
    found = await answers(stream, 6)
    assert found[1].response == found[6].response
    assert found[1].response.decision.version == CANARY
    assert "SHA-256" in found[2].error
    assert "service_key" in found[3].error
    assert f"'{SHOP}'" in found[4].error
    assert "policy.versions[0].build_date" in found[5].error
    assert not any(found[i].HasField("response") for i in (2, 3, 4, 5))
    await stream.write(pb.DecideStreamRequest(requests=[numbered(7, "u1")]))
    assert (await answers(stream, 1))[7].response == found[1].response
    stream.cancel()


async def test_a_request_in_a_stream_may_be_asked_for_again(shop: Calls) -> None:
    await shop.release(100)
    stream = shop.decision.DecideStream()
    requests = [numbered(1, reads_digest="?"), numbered(2, baseline_hash="unknown")]
    await stream.write(pb.DecideStreamRequest(requests=requests))
    found = await answers(stream, 2)
    assert found[1].response.resend.reads.digest
    assert not found[1].response.resend.baseline
    assert found[2].response.resend.baseline
    stream.cancel()


async def test_a_request_that_needs_the_store_does_not_hold_up_the_others(
    redis: RedisServer,
) -> None:
    patient = {"person_deadline_ms": 60_000, "store_deadline_ms": 60_000}
    async with ready_service(redis_url=redis.url, **patient) as shop:
        await shop.release(0, "slow")
        await shop.segment("early", service_key="slow", canary_eligible=True)
        stream = shop.decision.DecideStream()
        redis.freeze()
        try:
            requests = [numbered(1, "u1", service_key="slow"), numbered(2, "u1")]
            await stream.write(pb.DecideStreamRequest(requests=requests))
            assert list(await answers(stream, 1)) == [2]
            await stream.write(pb.DecideStreamRequest(requests=[numbered(3, "u2")]))
            assert list(await answers(stream, 1)) == [3]
        finally:
            redis.thaw()
        assert list(await answers(stream, 1)) == [1]
        stream.cancel()


async def test_a_client_that_vanishes_amid_a_stream_leaves_nothing_behind(
    redis: RedisServer,
) -> None:
    limits = {"person_deadline_ms": 60_000, "store_deadline_ms": 60_000}
    async with ready_service(redis_url=redis.url, **limits) as shop:
        await shop.release(0, "gone")
        await shop.segment("early", service_key="gone", canary_eligible=True)
        redis.freeze()
        try:
            for _ in range(3):
                stream = shop.decision.DecideStream()
                requests = [numbered(i, f"u{i}", service_key="gone") for i in range(20)]
                await stream.write(pb.DecideStreamRequest(requests=[*requests, numbered(99)]))
                await answers(stream, 1)
                assert own_tasks()
                stream.cancel()
        finally:
            redis.thaw()
        await until_so(lambda: not own_tasks())
        assert await shop.variant("u1", "gone") == ("stable", "default")


async def test_a_stream_before_the_store_was_read_says_so_for_each_request(
    redis: RedisServer,
) -> None:
    async with service(redis_url=f"{redis.url}-nobody") as shop:
        stream = shop.decision.DecideStream()
        await stream.write(pb.DecideStreamRequest(requests=[numbered(1), numbered(2)]))
        found = await answers(stream, 2)
        assert {answer.error for answer in found.values()} == {
            "no policy was read from the store yet"
        }
        stream.cancel()


async def test_what_a_stream_decides_and_refuses_is_counted(metered: Calls) -> None:
    await metered.release(100)
    stream = metered.decision.DecideStream()
    requests = [numbered(1, "u1"), numbered(2, "u2"), numbered(3, baseline=pb.Baseline())]
    await stream.write(pb.DecideStreamRequest(requests=requests))
    await answers(stream, 3)
    stream.cancel()
    of = {"service_key": SHOP, "variant": "canary", "reason": "percentage"}
    assert await metered.metric("canary_decisions_total", **of) == 2
    refusals = await metered.metric("canary_decision_errors_total", code="INVALID_ARGUMENT")
    assert refusals == 1


# WatchPolicies


async def revisions(stream: Any, last: int, key: str = SHOP) -> list[int]:
    """The revisions of a service key that a stream sends, up to the last."""
    found: list[int] = []
    async with asyncio.timeout(LIMIT_S):
        while not found or found[-1] != last:
            message = await stream.read()
            if message.service_key == key:
                found.append(message.policy.revision)
    return found


async def test_a_watcher_gets_every_policy_whole_first_and_hears_of_absent_ones(
    shop: Calls,
) -> None:
    await shop.release(5)
    stream = shop.watch(SHOP, "absent")
    found = {m.service_key: m for m in [await stream.read(), await stream.read()]}
    assert set(found) == {SHOP, "absent"}
    assert not found["absent"].HasField("policy")
    assert found[SHOP].policy.revision == 3
    assert [v.version for v in found[SHOP].policy.versions] == [STABLE, CANARY]
    assert found[SHOP].policy.release.percentage == 5
    stream.cancel()


async def test_a_watcher_hears_of_each_new_revision_and_of_no_other_service_key(
    shop: Calls,
) -> None:
    await shop.release(5)
    stream = shop.watch(SHOP)
    assert await revisions(stream, 3) == [3]
    for percentage in (10, 20, 30):
        await shop.change("SetPercentage", percentage=percentage)
        await shop.register(f"v{percentage}", "other")
        message = await stream.read()
        assert message.service_key == SHOP
        assert message.policy.release.percentage == percentage
    stream.cancel()


async def test_a_policy_that_comes_to_be_is_told_to_who_waits_for_it(shop: Calls) -> None:
    stream = shop.watch(SHOP)
    assert not (await stream.read()).HasField("policy")
    await shop.register(STABLE)
    assert (await stream.read()).policy.revision == 1
    stream.cancel()


async def test_a_slow_watcher_skips_to_the_newest_revision(shop: Calls) -> None:
    # Big enough that the stream's window does not hold them all.
    values = [f"{i:0>4000}" for i in range(100)]
    await shop.release(0)
    await shop.change("AddRule", rule=a_rule(exact="", one_of=values))
    slow, quick = shop.watch(SHOP), shop.watch(SHOP)
    assert await revisions(slow, 4) == await revisions(quick, 4) == [4]
    for percentage in range(1, 61):
        revision = await shop.change("SetPercentage", percentage=percentage)
        assert await revisions(quick, revision) == [revision]
    late = await revisions(slow, revision)
    assert len(late) < 40
    assert late == sorted(set(late))
    for stream in (slow, quick):
        stream.cancel()


async def test_watchers_that_go_in_any_way_are_counted_down_to_none(metered: Calls) -> None:
    async def watchers(count: int) -> None:
        async def are() -> bool:
            return await metered.metric("canary_policy_watchers") == count

        await until(are)

    await metered.release(0)
    await metered.change(
        "AddRule", rule=a_rule(exact="", one_of=[f"{i:0>4000}" for i in range(200)])
    )
    idle, stuck, unread = metered.watch(SHOP), metered.watch(SHOP), metered.watch(SHOP)
    for stream in (idle, stuck):
        await stream.read()
    await watchers(3)
    for percentage in range(1, 21):
        await metered.change("SetPercentage", percentage=percentage)
    for stream in (stuck, unread, idle):
        stream.cancel()
    await watchers(0)


async def test_a_watcher_that_came_before_the_store_gets_the_policies_once_it_is_read() -> None:
    with running_redis(options=()) as server:
        async with ready_service(redis_url=server.url, store_deadline_ms=10_000) as first:
            await first.release(5)
            server.freeze()
            try:
                # Nothing was read yet, and the gateway that waits is not refused.
                async with service(redis_url=server.url) as late:
                    stream = late.watch(SHOP)
                    assert not await late.is_serving("")
                    server.thaw()
                    assert await revisions(stream, 3) == [3]
                    stream.cancel()
            finally:
                server.thaw()


async def test_too_many_service_keys_in_a_watch_are_refused(shop: Calls) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "service_keys", "10,000"):
        await shop.watch(*map(str, range(10_001))).read()


async def test_whoever_pings_an_idle_connection_keeps_it(shop: Calls) -> None:
    reader, writer = await asyncio.open_connection(*shop.running.decision_address.rsplit(":", 1))
    ping = frames.frame(frames.PING, 0, 0, bytes(8))
    writer.write(frames.PREFACE + frames.settings({}) + ping * 20)
    cut, acknowledged = frames.Reader(), 0
    async with asyncio.timeout(LIMIT_S):
        while acknowledged < 20:
            for kind, flags, _, payload in cut.frames(await reader.read(65_536)):
                assert kind != frames.GOAWAY, frames.code_name(payload, 4)
                acknowledged += kind == frames.PING and flags == frames.ACK
    writer.close()
