"""The service as a process: starts, says what is wrong, drains, and keeps users out of its logs."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from canary.decision.v1 import decision_pb2 as pb
from canary.policy.v1 import policy_pb2
from click.testing import CliRunner
from decision_svc.__main__ import main
from support.calls import (
    METERED,
    SHOP,
    Calls,
    a_baseline,
    a_rule,
    calling,
    facts_of,
    ready_service,
    until,
)
from support.process_wide import put_back
from support.service_process import PORTS, address_of, started


def numbered(id_: int) -> pb.DecideStreamRequest:
    request = pb.DecideRequest(service_key=SHOP, headers={"x-user-id": "u"})
    return pb.DecideStreamRequest(requests=[pb.NumberedRequest(id=id_, request=request)])


async def test_sigterm_answers_what_is_in_flight_and_exits_with_zero() -> None:
    async with started(*PORTS, "--drain-s=30") as process:
        async with calling(await address_of(process)) as shop:
            await shop.release(100)
            stream = shop.decision.DecideStream()
            await stream.write(numbered(1))
            assert (await stream.read()).responses[0].id == 1
            process.process.send_signal(signal.SIGTERM)
            await process.said("draining")
            await stream.write(numbered(2))
            last = (await stream.read()).responses[0]
            assert (last.id, last.response.decision.version) == (2, "v2")
            await stream.done_writing()
            assert await stream.read() is not None
        assert await process.end() == 0
    assert json.loads(process.lines[-1])["event"] == "stopped"


async def test_a_watcher_does_not_hold_up_the_end_for_longer_than_the_drain() -> None:
    async with (
        started(*PORTS, "--drain-s=0.1") as process,
        calling(await address_of(process)) as shop,
    ):
        stream = shop.watch(SHOP)
        await stream.read()
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0
        stream.cancel()


@contextmanager
def occupied_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def complaint(*options: str) -> str:
    """What a service that cannot start with these options says."""
    with put_back():
        found = CliRunner().invoke(main, ["--insecure", *PORTS, *options])
    assert found.exit_code == 2
    return found.stderr


def test_settings_that_cannot_be_used_are_named_and_the_exit_code_is_two() -> None:
    with occupied_port() as port:
        wrong = [
            ("--listen", "127.0.0.1:99999"),
            ("--listen", f"127.0.0.1:{port}"),
            ("--admin-listen", "127.0.0.1:http"),
            ("--metrics-listen", f"127.0.0.1:{port}"),
            ("--redis-url", "postgres://:secret@localhost"),
            ("--log-level", "loud"),
        ]
        for option, value in wrong:
            text = complaint(f"{option}={value}")
            assert option in text
            assert "secret" not in text


async def test_a_process_that_cannot_start_says_why_without_a_traceback() -> None:
    with occupied_port() as port:
        async with started(*PORTS, f"--listen=127.0.0.1:{port}") as process:
            assert await process.end() == 2
    text = "\n".join(process.lines)
    assert "--listen" in text
    assert "Traceback" not in text


async def test_the_log_is_json_and_names_no_user_cookie_or_header() -> None:
    secret = "do-not-log-me"
    facts: dict[str, Any] = {
        "headers": {"x-user-id": secret, "x-canary-test": secret},
        "cookies": {"sid": secret},
        "client_ip": secret,
        "path": f"/{secret}",
        "consumer": secret,
        "fallback_key": secret,
    }
    async with started(*PORTS, "--drain-s=0.1", "--log-level=debug") as process:
        async with calling(await address_of(process)) as shop:
            await shop.release(50)
            await shop.segment("early", canary_eligible=True)
            await shop.change("AddMembers", segment="early", users=[secret])
            await shop.change("AddToWhitelist", entries=policy_pb2.Whitelist(users=[secret]))
            await shop.profile(secret, tier=secret)
            await shop.decide(**facts)
            stream = shop.decision.DecideStream()
            request = pb.DecideRequest(service_key=SHOP, **facts)
            forged = pb.DecideRequest(
                service_key=SHOP, baseline=pb.Baseline(hash=secret), baseline_hash=secret
            )
            requests = [
                pb.NumberedRequest(id=i, request=r) for i, r in enumerate((request, forged))
            ]
            await stream.write(pb.DecideStreamRequest(requests=requests))
            await stream.read()
            stream.cancel()
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0
    events = [json.loads(line) for line in process.lines]
    assert {"policy changed", "profile put", "draining"} <= {line["event"] for line in events}
    assert all({"level", "timestamp"} <= line.keys() for line in events)
    assert secret not in "".join(process.lines)


# Metrics


@pytest.fixture
async def shop() -> AsyncIterator[Calls]:
    async with ready_service(**METERED) as calls:
        yield calls


async def test_decisions_are_counted_by_service_key_variant_and_reason(shop: Calls) -> None:
    await shop.release(100)
    await shop.change("AddRule", rule=a_rule(variant=policy_pb2.VARIANT_STABLE))
    for _ in range(3):
        await shop.decide(**facts_of("u"))
    await shop.decide(headers={"x-canary-test": "true"})
    baseline = a_baseline(100, "declared")
    await shop.decide("declared", baseline_hash=baseline.hash, baseline=baseline, **facts_of("u"))
    found = {
        tuple(sample.labels[name] for name in ("service_key", "variant", "reason")): sample.value
        for sample in await shop.samples()
        if sample.name == "canary_decisions_total"
    }
    assert found == {
        (SHOP, "canary", "percentage"): 3,
        (SHOP, "stable", "rule"): 1,
        ("declared", "canary", "percentage"): 1,
    }


async def test_service_keys_that_nobody_declared_make_no_labels(shop: Calls) -> None:
    for i in range(50):
        await shop.decide(f"made-up-{i}")
        await shop.answer(f"made-up-{i}", baseline_hash="made up")
    assert not [s for s in await shop.samples() if "made" in "".join(s.labels.values())]
    assert await shop.metric("canary_decisions_total", service_key="unknown") == 50
    assert await shop.metric("canary_resends_total") == 50


async def test_changes_and_the_revision_in_memory_are_metered(shop: Calls) -> None:
    revision = await shop.release(5)
    assert await shop.metric("canary_policy_changes_total", service_key=SHOP) == revision

    async def is_told() -> bool:
        return await shop.metric("canary_policy_revision", service_key=SHOP) == revision

    await until(is_told)
