"""Overrides by the admin API: whom they force, for how long, and that no token is kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
import structlog
from canary.admin.v1 import admin_pb2 as pb
from canary.policy.v1 import policy_pb2
from canaryctl.signing_key import write_key
from decision_svc.errors import BadSettings, OverrideRefused
from decision_svc.overrides import MAX_REVOKED, revoke
from support.calls import CANARY, SHOP, STABLE, Calls, a_change, ready_service, refused
from support.overrides import COOKIE, HEADER, KEY, PUBLIC_KEY, key_file, token
from support.redis_server import RedisServer, running_redis
from support.service import running_service

INVALID = grpc.StatusCode.INVALID_ARGUMENT
IMPOSSIBLE = grpc.StatusCode.FAILED_PRECONDITION
HOUR = 3_600
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Calls]:
    """A service with a key to sign with, and a release at 0 %."""
    async with ready_service(override_key=key_file(tmp_path)) as calls:
        await calls.release(0)
        yield calls


async def create(calls: Calls, service_key: str = SHOP, **fields: Any) -> Any:
    asked = {"variant": policy_pb2.VARIANT_CANARY, "valid_s": HOUR, **fields}
    change = a_change(service_key, asked.pop("expected", None))
    change.idempotency_key = asked.pop("key", "")
    return await calls.admin.CreateOverride(pb.CreateOverrideRequest(change=change, **asked))


async def version(calls: Calls, text: str, **facts: Any) -> str:
    headers = {HEADER: text, **facts.pop("headers", {})}
    return (await calls.decide(headers=headers, **facts)).version


async def test_a_token_forces_its_variant_in_header_or_cookie(shop: Calls) -> None:
    override = await create(shop)
    decision = await shop.decide(headers={HEADER: override.token})
    assert (decision.version, decision.reason) == (CANARY, policy_pb2.REASON_OVERRIDE)
    assert decision.matched == override.id
    in_cookie = await shop.decide(cookies={COOKIE: override.token})
    assert in_cookie.version == CANARY
    stable = await create(shop, variant=policy_pb2.VARIANT_STABLE)
    await shop.change("SetPercentage", percentage=100)
    assert await version(shop, stable.token, headers={"x-user-id": "ann"}) == STABLE


async def test_the_policy_learns_the_key_with_the_first_override(shop: Calls) -> None:
    before = (await shop.policy())["revision"]
    first, second = await create(shop), await create(shop)
    assert (first.revision, second.revision) == (before + 1, before + 1)
    assert (await shop.policy())["overrides"] == {"public_key": PUBLIC_KEY}
    assert first.id != second.id


async def test_what_is_signed_is_what_was_asked_for(shop: Calls) -> None:
    override = await create(shop, user="张三", cidr="192.0.2.0/24")
    claims = jwt.decode(override.token, KEY.public_key(), algorithms=["EdDSA"], audience=SHOP)
    assert claims == {
        "aud": SHOP,
        "exp": override.expires_at.seconds,
        "jti": override.id,
        "variant": "canary",
        "user": "张三",
        "cidr": "192.0.2.0/24",
    }


async def test_a_revoked_override_is_worthless_by_id_and_by_token(shop: Calls) -> None:
    by_id, by_token, other = [await create(shop) for _ in range(3)]
    revision = await shop.change("RevokeOverride", id=by_id.id)
    assert await shop.change("RevokeOverride", id=by_token.token) == revision + 1
    assert await shop.change("RevokeOverride", id=by_token.token) == revision + 1
    for override, expected in ((by_id, STABLE), (by_token, STABLE), (other, CANARY)):
        assert await version(shop, override.token) == expected


async def test_revoking_by_token_is_kept_until_the_token_would_expire(shop: Calls) -> None:
    override = await create(shop)
    await shop.change("RevokeOverride", id=override.token)
    (revoked,) = (await shop.policy())["overrides"]["revoked"]
    assert revoked["id"] == override.id
    assert revoked["expires_at"] == override.expires_at.ToJsonString()


async def test_names_are_set_and_key_and_revocations_stay(shop: Calls) -> None:
    override, gone = await create(shop), await create(shop)
    await shop.change("RevokeOverride", id=gone.id)
    before = (await shop.policy())["overrides"]
    await shop.change("SetOverrides", header="X-Tester", cookie="tester")
    named = {"header": "x-tester", "cookie": "tester"}
    assert (await shop.policy())["overrides"] == before | named
    assert (await shop.decide(headers={"x-tester": override.token})).version == CANARY
    assert (await shop.decide(cookies={"tester": override.token})).version == CANARY
    assert await version(shop, override.token) == STABLE
    assert (await shop.decide(headers={"x-tester": gone.token})).version == STABLE
    await shop.change("SetOverrides", cookie="tester")
    assert (await shop.policy())["overrides"] == before | {"cookie": "tester"}
    assert await version(shop, override.token) == CANARY


@pytest.mark.parametrize("names", [{"header": "authorization"}, {"cookie": "a b"}])
async def test_names_that_cannot_be_are_refused(shop: Calls, names: dict[str, str]) -> None:
    before = await shop.policy()
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await shop.change("SetOverrides", **names)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"overrides.{next(iter(names))}" in str(refusal.value.details())
    assert await shop.policy() == before


def test_revocations_that_have_expired_are_forgotten_at_the_next_change() -> None:
    document = {"overrides": {"revoked": [revoked("o-past", 2020), revoked("o-later", 2100)]}}
    edited = revoke("o-new", datetime(2100, 1, 1, tzinfo=UTC), NOW)(document)
    assert [r["id"] for r in edited["overrides"]["revoked"]] == ["o-later", "o-new"]


def revoked(id_: str, year: int) -> dict[str, str]:
    return {"id": id_, "expires_at": f"{year}-01-01T00:00:00Z"}


async def test_all_overrides_are_revoked_by_taking_the_key_out(shop: Calls) -> None:
    override, gone = await create(shop), await create(shop)
    await shop.change("RevokeOverride", id=gone.id)
    await shop.change("RevokeOverride", id="*")
    assert await version(shop, override.token) == STABLE
    await create(shop)
    assert await version(shop, override.token) == CANARY
    assert await version(shop, gone.token) == STABLE


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"valid_s": 0}, ("valid_s", "1 to 2,592,000")),
        ({"valid_s": 30 * 86_400 + 1}, ("valid_s", "30 days")),
        ({"variant": policy_pb2.VARIANT_UNSPECIFIED}, ("variant", "stable or canary")),
        ({"cidr": "10.0.0.1/8"}, ("cidr", "host bits")),
        ({"cidr": "here"}, ("cidr", "neither an address nor a network")),
        ({"user": "x" * 129}, ("user", "128")),
        ({"user": " ann"}, ("user", "128")),
        ({"user": "a\nb"}, ("user", "128")),
        ({"user": "😀" * 128}, ("user", "too long")),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    shop: Calls, fields: dict[str, Any], words: tuple[str, ...]
) -> None:
    before = await shop.policy()
    with refused(INVALID, *words):
        await create(shop, **fields)
    assert await shop.policy() == before


async def test_a_service_without_a_key_says_how_to_get_one() -> None:
    async with ready_service() as calls:
        await calls.release(0)
        with refused(IMPOSSIBLE, "canaryctl override keygen", "--override-key"):
            await create(calls)


async def test_a_policy_that_believes_another_key_is_left_alone(
    tmp_path: Path, redis: RedisServer
) -> None:
    settings = {"redis_url": redis.url, "store_deadline_ms": 10_000}
    async with ready_service(override_key=key_file(tmp_path), **settings) as calls:
        await calls.release(0)
        token_ = (await create(calls)).token
    other = str(tmp_path / "other.pem")
    write_key(other)
    async with ready_service(override_key=other, **settings) as calls:
        with refused(IMPOSSIBLE, "another key", "--override-key"):
            await create(calls)
        assert await version(calls, token_) == CANARY
        await calls.change("RevokeOverride", id="*")
        await create(calls)
        assert await version(calls, token_) == STABLE


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", ("id", "o-0123456789abcdef")),
        ("o-12", ("id", "o-0123456789abcdef")),
        ("a.b.c", ("id", "not the shape of a token")),
        (token(aud="orders"), ("another service key",)),
        (token(exp=1_577_836_800), ("expired at 2020-01-01T00:00:00Z",)),
    ],
)
async def test_what_cannot_be_revoked_is_refused(
    shop: Calls, given: str, words: tuple[str, ...]
) -> None:
    await create(shop)
    with refused(INVALID, *words):
        await shop.change("RevokeOverride", id=given)


async def test_there_are_no_overrides_where_there_is_no_policy(shop: Calls) -> None:
    missing = grpc.StatusCode.NOT_FOUND
    with refused(missing, "there is no policy of 'nobody'"):
        await create(shop, "nobody")
    with refused(missing, "there is no policy of 'nobody'"):
        await shop.change("RevokeOverride", "nobody", id="o-0123456789abcdef")
    with refused(missing, "believes no token"):
        await shop.change("RevokeOverride", id=token())


def test_there_is_an_end_to_revoking() -> None:
    many = [revoked(f"o-{number}", 2100) for number in range(MAX_REVOKED)]
    with pytest.raises(OverrideRefused, match="change the key instead"):
        revoke("o-x", NOW, NOW)({"overrides": {"revoked": many}})


async def test_a_token_is_in_its_answer_and_nowhere_else(shop: Calls) -> None:
    with structlog.testing.capture_logs() as logged:
        override = await create(shop)
        await shop.change("RevokeOverride", id=override.token)
        request = pb.ExplainRequest()
        request.request.service_key = SHOP
        request.request.headers[HEADER] = override.token
        explained = await shop.admin.Explain(request)
    kept = [logged, explained, await trail(shop), await shop.policy(), await shop.changes()]
    assert override.token.rpartition(".")[2] not in str(kept)
    (told,) = [line for line in logged if line["event"] == "override created"]
    assert (told["id"], told["actor"], told["reason"]) == (override.id, "ada", "a test")


async def trail(calls: Calls) -> list[str]:
    """The entries of the audit trail."""
    request = pb.ListAuditRequest(service_key=SHOP)
    return [e.entry async for answer in calls.admin.ListAudit(request) for e in answer.entries]


async def test_the_audit_trail_says_for_whom_a_token_was_made_by_whom_and_why(
    shop: Calls,
) -> None:
    await create(shop)
    override = await create(shop, user="ann", cidr="192.0.2.0/24")
    entry = json.loads((await trail(shop))[-1])
    assert (entry["actor"], entry["reason"]) == ("ada", "a test")
    assert entry["summary"] == f"create override {override.id} for canary"
    assert entry["override"].pop("user").startswith("#")
    assert entry["override"] == {
        "id": override.id,
        "cidr": "192.0.2.0/24",
        "expires_at": override.expires_at.ToDatetime(UTC).isoformat(),
    }


@pytest.mark.parametrize("before", [0, 1])
async def test_a_request_that_is_sent_again_is_answered_the_same_override(
    shop: Calls, before: int
) -> None:
    for _ in range(before):
        await create(shop)
    first = await create(shop, key="kk", user="ann")
    revision = await shop.segment("early", canary_eligible=True)
    entries = await trail(shop)
    again = await create(shop, key="kk", user="ann")
    assert (again.id, again.token) == (first.id, first.token)
    assert again.expires_at == first.expires_at
    assert again.revision == revision
    assert await trail(shop) == entries, "nothing new was made"
    other = await create(shop, key="another", user="ann")
    assert other.id not in (first.id, (await create(shop, user="ann")).id)
    await shop.change("RevokeOverride", id=first.id)
    revoked_token = (await create(shop, key="kk", user="ann")).token
    assert await version(shop, revoked_token, headers={"x-user-id": "ann"}) == "v1"


async def test_requests_for_different_overrides_cannot_share_an_idempotency_key(
    shop: Calls,
) -> None:
    await create(shop, key="kk", user="ann")
    with refused(grpc.StatusCode.ALREADY_EXISTS, "idempotency_key"):
        await create(shop, key="kk", user="bob")
    await create(shop)
    await create(shop, key="kk2", user="ann")
    with refused(grpc.StatusCode.ALREADY_EXISTS, "idempotency_key", "another override"):
        await create(shop, key="kk2", user="ann", valid_s=HOUR + 1)


async def test_the_same_key_names_another_override_of_another_service_key(shop: Calls) -> None:
    await shop.release(0, "bakery")
    found = {(await create(shop, key, key="kk")).id for key in (SHOP, "bakery")}
    assert len(found) == 2


@pytest.mark.parametrize("content", [None, b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
async def test_a_service_with_a_wrong_key_file_does_not_start(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadSettings, match="--override-key"):
        async with running_service(override_key=str(path)):
            pass
