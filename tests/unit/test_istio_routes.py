"""A policy as Istio's routes: the golden files, and never more canary than decisions give."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from canary_engine import parse
from canary_engine.decide import CompiledPolicy, decide
from canary_engine.model import BUCKETS, Decision, Policy, Request, Strategy
from canary_istio.matches import LeftOut
from canary_istio.routes import Mesh, routes
from canary_plugin.facts import cookies
from canaryctl.commands.apply import as_yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.istio import validator, weights

DATA = Path(__file__).resolve().parents[1] / "data/istio"
CASES = sorted(path.name.removesuffix(".policy.yaml") for path in DATA.glob("*.policy.yaml"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)

SEED = """
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata:
  name: yyc3-xy-api
spec:
  hosts:
  - yyc3-xy-api
  http:
  - match:
    - headers:
        x-canary-test:
          exact: "true"
    route:
    - destination:
        host: yyc3-xy-api
        subset: canary
      weight: 100
  - route:
    - destination:
        host: yyc3-xy-api
        subset: stable
      weight: 95
    - destination:
        host: yyc3-xy-api
        subset: canary
      weight: 5
---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata:
  name: yyc3-xy-api
spec:
  host: yyc3-xy-api
  subsets:
  - name: stable
    labels:
      version: stable
  - name: canary
    labels:
      version: canary
"""


def policy(case: str) -> Policy:
    return parse.policy(yaml.safe_load((DATA / f"{case}.policy.yaml").read_text()))


def mesh(found: Policy) -> Mesh:
    return Mesh(host=found.service_key)


def with_share(found: Policy, share: int) -> Policy:
    assert found.release is not None
    return replace(found, release=replace(found.release, share=share))


@pytest.mark.parametrize("case", CASES)
def test_a_policy_gives_the_objects_of_its_golden_file(case: str) -> None:
    found = policy(case)
    text = "---\n".join(map(as_yaml, routes(found, mesh(found)).objects))
    assert text == (DATA / f"{case}.istio.yaml").read_text()


def test_there_are_golden_files() -> None:
    assert {"seed", "everything", "halted", "segments-only", "none"} == set(CASES)


def test_the_seed_s_release_gives_the_seed_s_objects() -> None:
    virtual_service, destination_rule = yaml.safe_load_all(SEED)
    found = routes(policy("seed"), Mesh(host="yyc3-xy-api"))
    assert found.virtual_service == virtual_service
    assert found.destination_rule == destination_rule
    assert found.left_out == ()


def test_the_page_shows_what_the_seed_s_release_gives() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/istio.md").read_text()
    shown = page.partition("```yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(shown) == routes(policy("seed"), mesh(policy("seed"))).virtual_service


@pytest.mark.parametrize("case", CASES)
def test_objects_have_the_fields_of_the_api_and_no_others(case: str) -> None:
    found = policy(case)
    for thing in routes(found, replace(mesh(found), namespace="shop")).objects:
        assert list(validator().iter_errors(thing)) == []
        assert thing["metadata"] == {"name": found.service_key, "namespace": "shop"}
        assert list(validator().iter_errors({**thing, "status": {}})) != []


def test_objects_have_the_host_s_name_without_its_domain() -> None:
    found = routes(policy("seed"), Mesh(host="orders.shop.svc.cluster.local"))
    for thing in found.objects:
        assert thing["metadata"]["name"] == "orders"
    assert found.virtual_service["spec"]["hosts"] == ["orders.shop.svc.cluster.local"]


def weighted(found: Policy) -> list[int]:
    last = routes(found, mesh(found)).virtual_service["spec"]["http"][-1]["route"]
    return [part["weight"] for part in last]


@given(st.integers(0, BUCKETS))
@example(0)
@example(1)
@example(BUCKETS)
def test_weights_are_the_share_exactly(share: int) -> None:
    stable, canary = weighted(with_share(policy("seed"), share))
    assert canary * BUCKETS == share * (stable + canary)
    # Percent wherever percent can say it: older meshes want a sum of 100.
    assert (stable + canary == 100) is (share % 1_000 == 0)


@pytest.mark.parametrize("strategy", Strategy)
def test_the_share_counts_only_where_the_strategy_draws(strategy: Strategy) -> None:
    found = policy("seed")
    assert found.release is not None
    release = replace(found.release, strategy=strategy)
    draws = strategy in (Strategy.COMBINED, Strategy.PERCENTAGE)
    assert weighted(replace(found, release=release)) == ([95, 5] if draws else [100, 0])


def test_what_is_left_out_is_told_with_the_reason() -> None:
    found = routes(policy("everything"), Mesh(host="orders"))
    assert [part.what for part in found.left_out] == [
        "rule office", "rule anything", "rule partner", "rule session", "rule authority",
        "overrides", "the whitelist", "segment pilots", "segment premium", "flag new-checkout",
    ]  # fmt: skip
    assert all(part.why for part in found.left_out)
    (protecting,) = found.unprotected
    assert protecting == LeftOut("segment premium", "a mesh does not know users", protects=True)


def changed(document: dict[str, Any], **more: Any) -> Policy:
    return parse.policy({**document, **more})


DOCUMENT = yaml.safe_load((DATA / "seed.policy.yaml").read_text())


@pytest.mark.parametrize(
    "rule",
    [
        {"source": "ip", "cidrs": ["192.0.2.0/24"]},
        {"source": "consumer", "exact": "partner"},
        {"source": "cookie", "key": "tier", "pattern": "^gold"},
        {"source": "header", "key": "method", "exact": "x"},
        {"source": "header", "key": "x-client", "pattern": "^(old)?"},
    ],
)
def test_a_rule_that_keeps_on_stable_and_cannot_be_written_leaves_somebody_unprotected(
    rule: dict[str, Any],
) -> None:
    keeps = {"name": "keeps", "variant": "stable", **rule}
    found = changed(DOCUMENT, rules=[keeps, *DOCUMENT["rules"]])
    made = routes(found, mesh(found))
    assert [part.what for part in made.unprotected] == ["rule keeps"]
    gives = changed(DOCUMENT, rules=[{**keeps, "variant": "canary"}])
    made = routes(gives, mesh(gives))
    assert [part.what for part in made.left_out] == ["rule keeps"]
    assert made.unprotected == ()


def test_where_nobody_can_get_the_canary_nobody_is_unprotected() -> None:
    protecting = [{"name": "premium", "canary_eligible": False, "criteria": {"tiers": ["p"]}}]
    found = changed(DOCUMENT, segments=protecting)
    assert routes(found, mesh(found)).unprotected
    # Testers are still forced, and one of them may be protected.
    assert routes(with_share(found, 0), mesh(found)).unprotected
    alone = replace(with_share(found, 0), rules=())
    assert not routes(alone, mesh(found)).unprotected


def test_clients_whose_version_only_the_media_type_names_cannot_be_kept_on_stable() -> None:
    rules = [{"from": "v0", "to": "v1.3.0", "compatible": False}]
    compatibility = {"media_type": "application/vnd.shop", "rules": rules}
    found = changed(DOCUMENT, compatibility=compatibility)
    made = routes(found, mesh(found))
    assert [part.what for part in made.unprotected] == ["clients of API version v0"]


def test_clients_without_a_hash_key_cannot_be_kept_out_of_the_draw() -> None:
    found = changed(DOCUMENT, bucketing={"anonymous": "stable"})
    made = routes(found, mesh(found))
    assert [part.what for part in made.unprotected] == ["clients without a hash key"]


# Headers, cookies and paths around the rules of "everything": what matches, nearly, and not.
COOKIES = st.sampled_from(
    [
        "yyc3_canary=a.b", "yyc3_canary=axb", 'yyc3_canary="a.b"', " yyc3_canary = a.b ",
        "x=1", "xyyc3_canary=a.b", "yyc3_canary", "session=t-1", "session=u", "",
    ]
)  # fmt: skip
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "x-user-tier": st.sampled_from(["enterprise", "gold", "golden", "free", ""]),
        "x-client": st.sampled_from(["beta-1", "beta-", "alpha beta-1", "beta-12 x", "\n", ""]),
        "x-api-version": st.sampled_from(["v0", "v1", "v00", ""]),
        "authority": st.sampled_from(["a.example", "b.example"]),
        # Of a cookie that is sent twice a mesh takes either, we the first.
        "cookie": st.lists(COOKIES, max_size=3)
        .map(";".join)
        .filter(lambda header: header.count("yyc3_canary") < 2),
    },
)
PATHS = st.sampled_from(
    [
        "/", "/admin", "/admin/x", "/x/admin", "/preview", "/preview/", "/preview/x",
        "/api/v0", "/api/v0/orders", "/api/v00", "/api/v1/x", "/api/",
    ]
)  # fmt: skip


def decided(compiled: CompiledPolicy, headers: dict[str, str], path: str) -> str:
    """The variant that the gateway decides for a stranger without a consumer."""
    names = frozenset({"yyc3_canary", "session"})
    request = Request(
        headers=headers,
        cookies=cookies(headers.get("cookie", ""), names),
        client_ip="203.0.113.9",
        path=path,
        fallback_key="new",
    )
    answer = decide(compiled, request, None, NOW)
    assert isinstance(answer, Decision)
    return str(answer.variant)


def exact_part() -> Policy:
    """Of "everything" what a mesh can do, at 0 %: then rules alone decide."""
    found = with_share(policy("everything"), 0)
    left_out = {part.what for part in routes(found, mesh(found)).left_out}
    rules = tuple(rule for rule in found.rules if f"rule {rule.name}" not in left_out)
    only = Policy(service_key=found.service_key, versions=found.versions, release=found.release)
    return replace(only, rules=rules, compatibility=found.compatibility)


EXACT = exact_part()
EXACT_ROUTES, EXACT_DECISIONS = routes(EXACT, mesh(EXACT)), CompiledPolicy(EXACT)

OPEN = replace(policy("everything"), segments=())
OPEN_ROUTES, OPEN_TO_ALL = routes(OPEN, mesh(OPEN)), CompiledPolicy(with_share(OPEN, BUCKETS))


@settings(max_examples=500, deadline=None)
@given(HEADERS, PATHS)
def test_what_a_mesh_can_do_it_does_as_the_gateway_decides(
    headers: dict[str, str], path: str
) -> None:
    says = {decided(EXACT_DECISIONS, headers, path)}
    if headers.get("x-api-version") and path.startswith("/api/v0"):
        says.add("stable")  # it names two versions, and the canary cannot serve one of them
    (given_to,) = (s for s, w in weights(EXACT_ROUTES.virtual_service, headers, path).items() if w)
    assert given_to in says


@settings(max_examples=500, deadline=None)
@given(HEADERS, PATHS)
def test_a_mesh_gives_nobody_the_canary_whom_the_gateway_keeps_on_stable(
    headers: dict[str, str], path: str
) -> None:
    assert OPEN_ROUTES.unprotected == ()
    if weights(OPEN_ROUTES.virtual_service, headers, path).get("canary"):
        assert decided(OPEN_TO_ALL, headers, path) == "canary"
