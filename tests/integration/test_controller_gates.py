"""A real controller at a real service: gates hold, a webhook's no halts, people hear of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2 as policy_pb
from canary_controller.app import assembled, run
from canary_controller.reports import ReportFiles
from canary_controller.rpc.client import LEASE, Client, CredentialFiles
from canary_controller.rpc.histories import ApiHistories
from canary_controller.settings import Settings
from canary_documents import to_message
from canary_engine import parse
from canary_engine.record import ReleaseRecord
from support.calls import CANARY, SHOP, Calls, a_change, ready_service, until, until_so
from support.web import Site, serving

SECRET = "a secret of two"
ITEM = "somebody is on call"
WAITS = "[info] shop: the release waits at a gate"
HALTED = "[critical] shop: the release of v2 is halted"


class Asked:
    """A webhook that answers what the test says at the moment."""

    def __init__(self) -> None:
        self.answer: dict[str, str] = {"answer": "not yet"}

    async def __call__(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self.answer)


async def fine(_: web.Request) -> web.StreamResponse:
    return web.Response()


@asynccontextmanager
async def controlled(calls: Calls, people: Site, folder: Path) -> AsyncIterator[None]:
    """A controller that looks often."""
    (folder / "notify.yml").write_text(
        f"channels: {{ops: 'json{people.url.removeprefix('http')}/ops'}}"
    )
    (folder / "secret").write_text(f"{SECRET}\n")
    settings = Settings(
        admin=calls.running.admin_address, holder="c1", look_every_s=0.05, metrics_listen="",
        notify_file=str(folder / "notify.yml"), webhook_secret_file=str(folder / "secret"),
    )  # fmt: skip
    stop = asyncio.Event()
    async with assembled(settings) as running:
        task = asyncio.create_task(run(running, stop))
        try:
            yield
        finally:
            stop.set()
            await task


async def planned(calls: Calls, plan: dict[str, Any], key: str = SHOP) -> None:
    """A release that stands at 0 % and has a plan."""
    message = to_message(plan, policy_pb.Plan)
    await calls.release(0, key)
    policy = policy_pb.Policy(service_key=key, plan=message)
    await calls.admin.Apply(pb.ApplyRequest(change=a_change(key), policy=policy))


async def becomes(calls: Calls, is_so: Callable[[dict[str, Any]], bool], key: str = SHOP) -> None:
    """Wait until the release is so."""

    async def is_so_now() -> bool:
        return is_so((await calls.policy(key))["release"])

    await until(is_so_now)


async def waits_for(calls: Calls, *words: str) -> None:
    """Wait until the record says that the release waits for all of this."""

    async def is_noted() -> bool:
        try:
            answer = await calls.admin.GetRecord(pb.GetRecordRequest(service_key=SHOP))
        except Exception:
            return False
        said = "; ".join(gate.waits_for for gate in answer.record.gates if not gate.is_open)
        return all(word in said for word in words)

    await until(is_noted)


def titles(people: Site) -> list[str]:
    return [json.loads(body)["title"] for _, body in people.requests]


@pytest.fixture
async def shop() -> AsyncIterator[Calls]:
    async with ready_service() as calls:
        yield calls


async def test_a_release_starts_when_every_gate_is_open_and_not_before(
    shop: Calls, tmp_path: Path
) -> None:
    asked = Asked()
    async with serving(asked) as hook, serving(fine) as people:
        gates = [{"kind": "approval"}, {"kind": "checklist"}]
        plan = {
            "steps": [{"weight": 5, "hold": "1h", "gates": gates}],
            "checklist": [{"name": ITEM}],
            "webhooks": [{"name": "qa", "url": hook.url, "occasions": ["start"]}],
        }
        await planned(shop, plan)
        async with controlled(shop, people, tmp_path):
            await waits_for(shop, "approval of the raise to 5 %", ITEM, "has not answered yet")
            consent = pb.ApproveRequest(
                change=a_change(),
                move=policy_pb.APPROVED_MOVE_RAISE,
                version=CANARY,
                percentage=5,
            )
            await shop.admin.Approve(consent)
            await shop.change("TickChecklist", item=ITEM)
            await waits_for(shop, "says not yet")
            assert len(hook.requests) > 0
            assert (await shop.policy())["release"].get("percentage", 0) == 0
            asked.answer = {"answer": "yes"}
            await becomes(shop, lambda release: release.get("percentage") == 5)
            # What is on its way when a controller stops is given up: the next one tells it.
            await until_so(lambda: titles(people).count(WAITS) >= 2)
    request, body = hook.requests[0]
    assert request.headers["X-Canary-Signature"].startswith("v1=")
    assert (json.loads(body)["occasion"], json.loads(body)["percentage"]) == ("start", 5)
    assert titles(people).count(WAITS) == 2


async def test_a_no_halts_the_release_and_a_person_may_have_it_asked_again(
    shop: Calls, tmp_path: Path
) -> None:
    asked = Asked()
    asked.answer = {"answer": "no", "text": "not on fridays"}
    async with serving(asked) as hook, serving(fine) as people:
        hooks = [{"name": "qa", "url": hook.url, "occasions": ["start"]}]
        await planned(shop, {"steps": [{"weight": 5, "hold": "1s"}], "webhooks": hooks})
        async with controlled(shop, people, tmp_path):
            await becomes(shop, lambda release: release.get("halted", False))
            await until_so(lambda: HALTED in titles(people))
            assert len(hook.requests) == 1, "a no is not asked for twice"
            asked.answer = {"answer": "yes"}
            await shop.change("MoveRelease", move=pb.MOVE_RESUME)
            await becomes(shop, lambda release: release.get("percentage") == 5)
    told = [json.loads(body)["message"] for _, body in people.requests]
    assert any("Webhook 'qa' said no: not on fridays." in text for text in told)


async def test_a_rollback_is_told_to_people_and_webhooks_once_also_after_a_restart(
    shop: Calls, tmp_path: Path
) -> None:
    async with serving(fine) as hook, serving(fine) as people:
        hooks = [{"name": "chronicle", "url": hook.url, "occasions": ["rollback"]}]
        await planned(shop, {"steps": [{"weight": 5, "hold": "1h"}], "webhooks": hooks})
        async with controlled(shop, people, tmp_path):
            await becomes(shop, lambda release: release.get("percentage") == 5)
            await shop.change("MoveRelease", move=pb.MOVE_ROLL_BACK)
            await people.has_heard(1)
            await hook.has_heard(1)

            async def is_noted() -> bool:
                answer = await shop.admin.GetRecord(pb.GetRecordRequest(service_key=SHOP))
                record = answer.record
                return bool(
                    any(a.key == "rollback:done" and a.HasField("told_at") for a in record.alerts)
                    and any(call.answer == "yes" for call in record.calls)
                )

            await until(is_noted)
        async with controlled(shop, people, tmp_path):
            # A release that moves shows that the new controller has looked at all of them.
            await planned(shop, {"steps": [{"weight": 5}]}, "bakery")
            await becomes(shop, lambda release: release.get("percentage") == 5, "bakery")
    assert titles(people) == ["[critical] shop: v2 was rolled back"]
    assert [json.loads(body)["occasion"] for _, body in hook.requests] == ["rollback"]


async def test_people_hear_that_a_controller_lost_its_lease(shop: Calls, tmp_path: Path) -> None:
    async with serving(fine) as people:
        await planned(shop, {"steps": [{"weight": 5}]})
        async with controlled(shop, people, tmp_path):
            await becomes(shop, lambda release: release.get("percentage") == 5)

            async def is_taken() -> bool:
                await shop.admin.DropLease(pb.DropLeaseRequest(name=LEASE, holder="c1"))
                request = pb.HoldLeaseRequest(name=LEASE, holder="c2", valid_s=300)
                return bool((await shop.admin.HoldLease(request)).is_held)

            await until(is_taken)
            await people.has_heard(1)
    assert titles(people) == ["[warning] controller: a controller lost its lease"]
    assert json.loads(people.requests[0][1])["message"].startswith("c2 holds it now.")


async def test_a_report_is_written_from_what_the_service_knows(shop: Calls, tmp_path: Path) -> None:
    await shop.release(5)
    await shop.change("MoveRelease", move=pb.MOVE_ROLL_BACK)
    policy = parse.policy(await shop.policy())
    assert policy.release is not None
    client = Client(shop.running.admin_address, 5.0, CredentialFiles())
    try:
        record = ReleaseRecord(service_key=SHOP, release_id=policy.release.id)
        now = datetime.now(UTC)
        histories = ApiHistories(client)
        await ReportFiles(tmp_path, histories, now=lambda: now).write(policy, record)
    finally:
        await client.close()
    told = (tmp_path / f"shop@{policy.release.id}.md").read_text("utf-8")
    assert told.startswith("# shop v2: rolled back\n")
    assert "ada | start release of v2" in told
    assert "ada | roll back release" in told
