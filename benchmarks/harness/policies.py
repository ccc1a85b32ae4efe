"""The policy and the requests that every suite decides on, as documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SERVICE_KEY = "shop"
TIERS = ("free", "pro", "enterprise")
REGIONS = ("eu", "us", "apac")


def policy(*, networks: int = 100, exact_rules: int = 0, percentage: float = 20) -> dict[str, Any]:
    """Four header and cookie rules, networks, three segments, a percentage.

    ``exact_rules`` are further values that send to the canary, each by a rule of its own.
    """
    return {
        "service_key": SERVICE_KEY,
        "revision": 1,
        "versions": [
            {"version": "v1", "status": "stable", "backend": {"upstream": "shop-v1"}},
            {"version": "v2", "status": "canary", "backend": {"upstream": "shop-v2"}},
        ],
        "release": {
            "id": "r1",
            "version": "v2",
            "status": "in-progress",
            "percentage": percentage,
            "salt": "spring",
        },
        "rules": [
            _rule("testers", "header", "x-canary-test", "true", "canary"),
            _rule("frozen", "header", "x-canary-test", "false", "stable"),
            _rule("opted-in", "cookie", "canary", "enabled", "canary"),
            _rule("opted-out", "cookie", "canary", "disabled", "stable"),
            *(
                _rule(f"tester-{n}", "header", "x-tester", f"tester-{n}", "canary")
                for n in range(exact_rules)
            ),
        ],
        "whitelist": {"ips": list(cidrs(networks))},
        "identity": {
            "attribute_headers": {"tier": "x-tier", "region": "x-region", "tags": "x-tags"}
        },
        "segments": [
            {"name": "enterprise", "canary_eligible": False, "criteria": {"tiers": ["enterprise"]}},
            {
                "name": "beta",
                "canary_eligible": True,
                "criteria": {"tiers": ["pro"], "tags": ["beta"]},
            },
            {
                "name": "europe",
                "canary_eligible": True,
                "percentage": 30,
                "criteria": {"regions": ["eu"]},
            },
        ],
    }


def _rule(name: str, source: str, key: str, exact: str, variant: str) -> dict[str, str]:
    return {"name": name, "source": source, "key": key, "exact": exact, "variant": variant}


def cidrs(number: int) -> Iterator[str]:
    """That many networks of 256 addresses, apart from each other, from 11.0.0.0 on."""
    for index in range(number):
        second, third = divmod(index * 3, 256)
        yield f"{11 + second // 256}.{second % 256}.{third}.0/24"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Somebody who sends requests."""

    user: str
    headers: dict[str, str] = field(default_factory=dict)
    cookies: dict[str, str] = field(default_factory=dict)
    client_ip: str


def visitors(number: int) -> list[Visitor]:
    """People of whom most are told apart by the percentage, some by everything before it."""
    return [visitor(index) for index in range(number)]


def visitor(index: int) -> Visitor:
    """One of them; a million are different."""
    user = f"user-{index * 7919 % 1_000_003}"
    headers = {
        "host": "shop.example",
        "user-agent": "Mozilla/5.0 (X11; Linux x86_64) bench",
        "accept": "application/json",
        "x-user-id": user,
        "x-tier": "enterprise" if index % 25 == 4 else TIERS[index % 2],
        "x-region": REGIONS[index % 3],
        "x-tags": "beta, mobile" if index % 10 == 3 else "mobile",
    }
    cookies = {"session": f"s{index}", "theme": "dark"}
    client_ip = f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"
    if index % 20 == 7:
        headers["x-canary-test"] = "true"
    if index % 20 == 13:
        cookies["canary"] = "disabled" if index % 40 == 13 else "enabled"
    if index % 20 == 17:
        client_ip = f"11.0.{index % 30 * 3}.{index & 255}"
    return Visitor(user=user, headers=headers, cookies=cookies, client_ip=client_ip)


def header_policy() -> dict[str, Any]:
    """What a gateway decides from headers alone: the rules, and 5 % by the user's id.

    As in kong/kong.yml, the stable version is where the service's own host leads.
    """
    whole = policy(percentage=5)
    return whole | {
        "versions": [{"version": "v1", "status": "stable"}, whole["versions"][1]],
        "whitelist": {},
        "segments": [],
        "identity": {},
        "bucketing": {"hash_on": [{"source": "header", "key": "x-user-id"}]},
    }
