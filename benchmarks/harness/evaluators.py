"""The policy of ``policies`` as other products' Python evaluators hold it.

Where one of them has no word for something it gets the cheapest that decides the same: the
client's /24 network for GrowthBook and flagd, who know no CIDRs, is found by the caller and not
counted; nobody keeps count of evaluations or sends events.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from growthbook import GrowthBook
from openfeature.contrib.tools.flagd.core.targeting import targeting
from openfeature.evaluation_context import EvaluationContext
from yggdrasil_engine.engine import UnleashEngine

from harness.policies import Visitor, cidrs

NETWORKS = 100
FLAG = "shop"

Evaluator = Callable[[Any], bool]
"""Whether the canary is for the visitor, who was made ready by the other function."""


def _network(visitor: Visitor) -> str:
    return visitor.client_ip.rpartition(".")[0]


def _listed() -> list[str]:
    return [cidr.rpartition(".")[0] for cidr in cidrs(NETWORKS)]


def _attributes(visitor: Visitor) -> dict[str, Any]:
    headers, cookies = visitor.headers, visitor.cookies
    return {
        "id": visitor.user,
        "test": headers.get("x-canary-test", ""),
        "choice": cookies.get("canary", ""),
        "network": _network(visitor),
        "tier": headers["x-tier"],
        "region": headers["x-region"],
        "tags": [tag.strip() for tag in headers["x-tags"].split(",")],
    }


def growthbook() -> tuple[Evaluator, Callable[[Visitor], Any]]:
    """GrowthBook's SDK; one object whose attributes are set for every visitor."""
    rules: list[dict[str, Any]] = [
        {"condition": {"test": "true"}, "force": True},
        {"condition": {"test": "false"}, "force": False},
        {"condition": {"choice": "enabled"}, "force": True},
        {"condition": {"choice": "disabled"}, "force": False},
        {"condition": {"network": {"$in": _listed()}}, "force": True},
        {"condition": {"tier": "enterprise"}, "force": False},
        {"condition": {"tier": "pro", "tags": {"$elemMatch": {"$eq": "beta"}}}, "force": True},
        {"condition": {"region": "eu"}, "force": True, "coverage": 0.3, "hashAttribute": "id"},
        {"force": True, "coverage": 0.2, "hashAttribute": "id"},
    ]
    book = GrowthBook(features={FLAG: {"defaultValue": False, "rules": rules}})

    def is_canary(attributes: Any) -> bool:
        book.set_attributes(attributes)
        return bool(book.is_on(FLAG))

    return is_canary, _attributes


def flagd() -> tuple[Evaluator, Callable[[Visitor], Any]]:
    """flagd's in-process evaluator: JsonLogic with flagd's own operations."""
    canary, stable = "canary", "stable"

    def equals(name: str, value: str) -> dict[str, Any]:
        return {"==": [{"var": name}, value]}

    def fractional(share: int, salt: str) -> dict[str, Any]:
        key = {"cat": [salt, {"var": "targetingKey"}]}
        return {"fractional": [key, [canary, share], [stable, 100 - share]]}

    rule = {
        "if": [
            equals("test", "true"), canary,
            equals("test", "false"), stable,
            equals("choice", "enabled"), canary,
            equals("choice", "disabled"), stable,
            {"in": [{"var": "network"}, _listed()]}, canary,
            equals("tier", "enterprise"), stable,
            {"and": [equals("tier", "pro"), {"in": ["beta", {"var": "tags"}]}]}, canary,
            equals("region", "eu"), fractional(30, "r1"),
            fractional(20, "r1"),
        ]
    }  # fmt: skip

    def is_canary(context: Any) -> bool:
        variant: object = targeting(FLAG, rule, context)
        return variant == canary

    def context(visitor: Visitor) -> EvaluationContext:
        return EvaluationContext(targeting_key=visitor.user, attributes=_attributes(visitor))

    return is_canary, context


def unleash() -> tuple[Evaluator, Callable[[Visitor], Any]]:
    """Unleash's engine, in Rust behind Python; CIDRs are its own. Strategies are alternatives,
    so what comes first is a constraint on all that come later."""

    def constraint(name: str, *values: str, not_: bool = False) -> dict[str, Any]:
        return {"contextName": name, "operator": "NOT_IN" if not_ else "IN", "values": values}

    def strategy(name: str, parameters: dict[str, str], *constraints: dict[str, Any]) -> Any:
        return {"name": name, "parameters": parameters, "constraints": constraints}

    def rollout(share: int, *constraints: dict[str, Any]) -> Any:
        parameters = {"rollout": str(share), "stickiness": "userId", "groupId": "r1"}
        return strategy("flexibleRollout", parameters, *constraints)

    not_frozen = constraint("test", "false", not_=True)
    not_out = constraint("choice", "disabled", not_=True)
    not_enterprise = constraint("tier", "enterprise", not_=True)
    before = (not_frozen, not_out)
    strategies = [
        strategy("default", {}, constraint("test", "true")),
        strategy("default", {}, constraint("choice", "enabled"), not_frozen),
        strategy("remoteAddress", {"IPs": ",".join(cidrs(NETWORKS))}, *before),
        strategy("default", {}, *before, constraint("tier", "pro"), constraint("beta", "yes")),
        rollout(30, *before, not_enterprise, constraint("region", "eu")),
        rollout(20, *before, not_enterprise),
    ]
    engine = UnleashEngine()
    feature = {"name": FLAG, "enabled": True, "strategies": strategies}
    engine.take_state(json.dumps({"version": 2, "features": [feature]}))

    def is_canary(context: Any) -> bool:
        return bool(engine.check_enabled(FLAG, context).is_enabled)

    def context(visitor: Visitor) -> dict[str, Any]:
        attributes = _attributes(visitor)
        return {
            "userId": visitor.user,
            "remoteAddress": visitor.client_ip,
            "properties": {
                **{name: attributes[name] for name in ("test", "choice", "tier", "region")},
                "beta": "yes" if "beta" in attributes["tags"] else "no",
            },
        }

    return is_canary, context


EVALUATORS = {"GrowthBook": growthbook, "flagd": flagd, "Unleash": unleash}
