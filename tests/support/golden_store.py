"""Golden cases as a service's store holds them, each under a service key of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from decision_svc.profiles import profile_of
from decision_svc.store.protocol import ChangeRecord, MemberEdit
from decision_svc.store.redis import RedisStore

from support.golden import golden


def cases(theme: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A service key for each case, and the case. An unreachable store is tested elsewhere, and
    overrides are signed for one service key.
    """
    for number, case in enumerate(golden(theme)["cases"]):
        is_known = case.get("person", {}).get("is_known", True)
        if is_known and "overrides" not in golden(theme)["policies"][case["policy"]]:
            yield f"{theme}-{number}", case


async def save(store: RedisStore, service_key: str, theme: str, case: Any) -> None:
    """Its policy, and the segments that its user is listed in."""
    document = golden(theme)["policies"][case["policy"]] | {
        "service_key": service_key,
        "revision": 1,
    }
    at = datetime(2026, 3, 1, tzinfo=UTC)
    record = ChangeRecord(revision=1, actor="ada", at=at, reason="test", summary="all of it")
    listed_in = case.get("person", {}).get("listed_in", [])
    user = user_of(theme, case)
    members = [MemberEdit(segment=segment, add=[user]) for segment in listed_in]
    await store.save(service_key, document, record, members)


def user_of(theme: str, case: Any) -> str:
    """Whom the case is about; "" for nobody."""
    identity = golden(theme)["policies"][case["policy"]].get("identity", {})
    header = identity.get("user_id_header", "x-user-id").lower()
    user: str = case["request"].get("headers", {}).get(header, "")
    return user


async def know(store: RedisStore, case: Mapping[str, Any], user: str) -> None:
    """What the case says of its user."""
    if user:
        profile = case.get("person", {}).get("profile", {})
        await store.put_profile(user, profile_of({"user": "any", **profile})[1])
