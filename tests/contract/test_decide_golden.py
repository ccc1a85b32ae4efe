"""The engine's golden cases through a real service on a real store: the same decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from canary.admin.v1 import admin_pb2
from canary.decision.v1 import decision_pb2
from canary.policy.v1 import policy_pb2
from canary_documents import to_message
from canary_engine import parse
from canary_engine.model import Reason
from decision_svc.store.redis import RedisStore
from redis.asyncio import Redis
from support.calls import Calls, ready_service
from support.golden import THEMES, golden
from support.golden_store import cases, know, save, user_of
from support.redis_server import RedisServer

REQUEST = decision_pb2.DecideRequest


def expected_of(case: Mapping[str, Any]) -> policy_pb2.Decision:
    decision = {**case["decision"], "policy_revision": 1}
    return to_message(decision, policy_pb2.Decision)


def is_timeless(policy: Mapping[str, Any]) -> bool:
    """Whether the policy says the same today as at the moment of the golden cases."""
    return not any("registered" in s.get("criteria", {}) for s in policy.get("segments", []))


async def explained(service: Calls, request: Any, now: str) -> policy_pb2.Decision:
    asked = admin_pb2.ExplainRequest(request=request)
    asked.at.FromJsonString(now)
    answer: admin_pb2.ExplainResponse = await service.admin.Explain(asked)
    reasons = [stage.reason for stage in answer.stages]
    expected = [policy_pb2.Reason.Value("REASON_" + reason.name) for reason in Reason]
    assert reasons == expected, "every stage once, in order"
    assert [s.reason for s in answer.stages if s.decided] == [answer.decision.reason]
    return answer.decision


@pytest.mark.parametrize("theme", THEMES)
async def test_decide_and_explain_answer_the_golden_cases(
    theme: str, redis_server: RedisServer
) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
    store = RedisStore.connect(redis_server.url, timeout_s=60)
    for service_key, case in cases(theme):
        await save(store, service_key, theme, case)
    # Nothing is remembered of a user from one case to the next, and no answer is too late.
    never = {"person_max_age_s": 0, "person_deadline_ms": 10_000, "store_deadline_ms": 10_000}
    wrong = {}
    async with ready_service(redis_url=redis_server.url, **never) as service:
        for service_key, case in cases(theme):
            request = to_message(
                {"service_key": service_key, **case["request"]}, decision_pb2.DecideRequest
            )
            await know(store, case, user_of(theme, case))
            found = [await explained(service, request, golden(theme)["now"])]
            if is_timeless(golden(theme)["policies"][case["policy"]]):
                found.append((await service.decision.Decide(request)).decision)
            if any(decision != expected_of(case) for decision in found):
                wrong[case["name"]] = found
    await store.aclose()
    assert wrong == {}


async def test_overrides_are_answered_as_the_golden_cases_say() -> None:
    wrong = {}
    async with ready_service() as service:
        for theme in ("overrides", "api-versions"):
            for case in golden(theme)["cases"]:
                policy = golden(theme)["policies"][case["policy"]]
                if "overrides" not in policy:
                    continue
                request = to_message({"service_key": "shop", **case["request"]}, REQUEST)
                # As a gateway's own policy, for it must be of service key "shop" each time.
                request.baseline.policy.CopyFrom(to_message(policy, policy_pb2.Policy))
                document = parse.document(parse.policy(policy))
                request.baseline_hash = request.baseline.hash = parse.content_hash(document)
                found = [
                    await explained(service, request, golden(theme)["now"]),
                    (await service.decision.Decide(request)).decision,
                ]
                expected = to_message(case["decision"], policy_pb2.Decision)
                if any(decision != expected for decision in found):
                    wrong[case["name"]] = found
    assert wrong == {}
