"""The declarative block of a service key: what Kong is told, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from canary_engine import parse
from canary_engine.model import Policy
from canary_plugin.config import read
from canaryctl.errors import Misuse
from canaryctl.kong_block import Block, Place, block

DOCUMENT: dict[str, Any] = {
    "service_key": "orders",
    "versions": [
        {"version": "v1", "status": "stable", "backend": {"upstream": "orders-stable"}},
        {
            "version": "v2",
            "status": "canary",
            "backend": {"upstream": "orders-canary", "host_header": "canary.orders"},
        },
    ],
    "release": {
        "id": "r-1",
        "version": "v2",
        "status": "in-progress",
        "percentage": 12.5,
        "salt": "sprint-12",
    },
    "rules": [
        {"name": "t", "source": "header", "key": "x-test", "exact": "true", "variant": "canary"},
        {"name": "c", "source": "cookie", "key": "beta", "one_of": ["a", "b"], "variant": "canary"},
    ],
    "whitelist": {"ips": ["192.0.2.0/24"]},
}
PLACE = Place(url="http://orders-stable:8080", paths=["/orders"])


def policy(**more: Any) -> Policy:
    return parse.policy({**DOCUMENT, **more})


def made(place: Place = PLACE, *, with_baseline: bool = False, **more: Any) -> Block:
    return block(policy(**more), place, with_baseline=with_baseline)


def config(found: Block) -> dict[str, Any]:
    (plugin,) = found.document["plugins"]
    inside: dict[str, Any] = plugin["config"]
    return inside


def test_a_block_is_a_service_its_route_its_plugin_and_the_versions_upstreams() -> None:
    assert made().document == {
        "_format_version": "3.0",
        "services": [{"name": "orders", "url": "http://orders-stable:8080"}],
        "routes": [
            {
                "name": "orders-route",
                "service": "orders",
                "paths": ["/orders"],
                "strip_path": False,
            }
        ],
        "plugins": [{"name": "canary-release", "service": "orders", "config": {}}],
        "upstreams": [
            {"name": "orders-stable", "targets": [{"target": "orders-stable:8080"}]},
            {"name": "orders-canary", "targets": [{"target": "orders-canary:8080"}]},
        ],
    }


def test_targets_are_where_they_are_said_to_be() -> None:
    targets = {"orders-canary": ["10.0.0.1:80", "10.0.0.2:80"], "api": ["10.0.0.3:80"]}
    place = Place(url="https://api", paths=["/a", "/b"], strip_path=True, targets=targets)
    document = made(place).document
    assert [(u["name"], [t["target"] for t in u["targets"]]) for u in document["upstreams"]] == [
        ("api", ["10.0.0.3:80"]),
        ("orders-stable", ["orders-stable:443"]),
        ("orders-canary", ["10.0.0.1:80", "10.0.0.2:80"]),
    ]
    assert document["routes"][0]["paths"] == ["/a", "/b"]
    assert document["routes"][0]["strip_path"] is True


def test_versions_with_a_host_of_their_own_need_no_upstream() -> None:
    versions = [{"version": "v1", "status": "stable"}, {"version": "v2", "status": "canary"}]
    assert "upstreams" not in made(versions=versions).document


def test_without_a_baseline_the_gateway_declares_none() -> None:
    assert read(config(made())).baseline("orders") is None


def test_what_tells_clients_apart_is_said_where_it_is_not_as_by_default() -> None:
    bucketing = {
        "hash_on": [{"source": "header", "key": "x-user"}, {"source": "ip"}],
        "anonymous": "per-request",
        "cookie": "who",
    }
    found = config(made(bucketing=bucketing, identity={"user_id_header": "x-user"}))
    assert found == {
        "hash_on": ["header:x-user", "ip"],
        "anonymous": "per-request",
        "cookie": "who",
        "user_id_header": "x-user",
    }


def test_a_baseline_gives_the_canary_what_the_policy_gives_it() -> None:
    found = read(config(made(with_baseline=True)))
    assert found.complaints == ()
    baseline = found.baseline("orders")
    assert baseline is not None
    stored = policy()
    assert baseline.policy.release is not None
    assert stored.release is not None
    # The same salt and share: nobody changes sides when the release has ended.
    assert baseline.policy.release.share == stored.release.share
    assert baseline.policy.release.salt == stored.release.salt
    values = {(r.source, r.key, r.exact, r.variant) for r in baseline.policy.rules}
    assert values == {
        ("header", "x-test", "true", "canary"),
        ("cookie", "beta", "a", "canary"),
        ("cookie", "beta", "b", "canary"),
    }
    assert baseline.policy.whitelist.ips == ("192.0.2.0/24",)
    (version,) = baseline.policy.versions
    assert version.backend is not None
    assert (version.backend.upstream, version.backend.host_header) == (
        "orders-canary",
        "canary.orders",
    )


@pytest.mark.parametrize(
    ("part", "what"),
    [
        (
            {"rules": [{"name": "r", "source": "header", "key": "x", "exact": "1",
                        "variant": "stable"}]},
            "rule r",
        ),
        (
            {"compatibility": {"header": "x-v", "rules": [
                {"from": "v0", "to": "v2", "compatible": False}]}},
            "compatibility rules",
        ),
        (
            {"segments": [{"name": "s", "canary_eligible": False, "listed": True}]},
            "segment s",
        ),
    ],
)  # fmt: skip
def test_a_baseline_that_cannot_keep_somebody_on_stable_says_so(
    part: dict[str, Any], what: str
) -> None:
    assert [p.what for p in made(with_baseline=True, **part).unprotected] == [what]
    # The release itself is decided by the whole policy, so without a baseline nothing is lost.
    assert made(**part).left_out == ()


def test_what_a_baseline_lacks_and_protects_nobody_is_told() -> None:
    part: dict[str, Any] = {
        "rules": [{"name": "p", "source": "path", "exact": "/p", "variant": "canary"}],
        "whitelist": {"users": ["u-1"]},
        "segments": [{"name": "s", "canary_eligible": True, "listed": True}],
        "flags": [{"name": "f"}],
    }
    found = made(with_baseline=True, **part)
    assert [p.what for p in found.left_out] == [
        "rule p",
        "whitelisted users and consumers",
        "segment s",
        "flag f",
    ]
    assert found.unprotected == ()


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        (Place(url="orders:80", paths=["/"]), "'orders:80' is none"),
        (Place(url="http://10.0.0.1:80", paths=["/"]), "10.0.0.1 is an address"),
        (Place(url="http://[::1]:80", paths=["/"]), "::1 is an address"),
        (
            Place(url="http://orders-stable", paths=["/"], targets={"other": ["a:1"]}),
            "no upstream is called other, only orders-stable",
        ),
    ],
)
def test_what_kong_could_not_serve_is_refused(place: Place, complaint: str) -> None:
    with pytest.raises(Misuse) as caught:
        made(place)
    assert complaint in caught.value.message


def test_a_baseline_of_no_release_is_refused() -> None:
    halted = {**DOCUMENT["release"], "halted": True}
    with pytest.raises(Misuse, match="no release takes traffic"):
        made(with_baseline=True, release=halted)


def test_a_baseline_of_a_canary_that_the_plugin_cannot_name_is_refused() -> None:
    versions = [{"version": "v2", "status": "canary", "backend": {"host": "c", "port": 80}}]
    with pytest.raises(Misuse, match="v2 has no upstream"):
        made(with_baseline=True, versions=versions)
