"""Who may talk to whom under a set of NetworkPolicies, by the rules of the API.

A pod that some policy selects for a direction may do only what one of them allows in it; both ends
must agree. What is outside the cluster, and pods of other namespaces, are not ours to restrict.

An ipBlock is read as narrowly as any network reads it: it never means a pod (as with Cilium; others
match pods by their addresses, too).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from support.manifests import selects

Policy = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A kind of pods, or an address outside of the cluster or on the node."""

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    ports: frozenset[int] = frozenset()
    address: str = ""


def arrows(policies: Iterable[Policy], peers: Iterable[Peer]) -> set[tuple[str, str, int]]:
    """Every (from, to, port) that is allowed between two peers, of the ports that they have."""
    known, everybody = list(policies), list(peers)
    return {
        (one.name, other.name, port)
        for one in everybody
        for other in everybody
        for port in other.ports
        if one is not other
        if _may(known, one, other, port, "egress") and _may(known, other, one, port, "ingress")
    }


def _may(policies: list[Policy], mine: Peer, theirs: Peer, port: int, way: str) -> bool:
    concerning = [p for p in policies if _concerns(p, mine, way)]
    side = "to" if way == "egress" else "from"
    return not concerning or any(
        _allows(rule.get(side), theirs, policy) and _has_port(rule.get("ports"), port)
        for policy in concerning
        for rule in policy["spec"].get(way, [])
    )


def _concerns(policy: Policy, peer: Peer, way: str) -> bool:
    return (
        policy["metadata"]["namespace"] == peer.namespace
        and way.capitalize() in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], peer.labels)
    )


def _allows(peers: list[dict[str, Any]] | None, peer: Peer, policy: Policy) -> bool:
    return not peers or any(_is(one, peer, policy["metadata"]["namespace"]) for one in peers)


def _is(wanted: Mapping[str, Any], peer: Peer, own_namespace: str) -> bool:
    if "ipBlock" in wanted:
        return bool(peer.address) and _is_in(wanted["ipBlock"], peer.address)
    if peer.address:
        return False
    place = {**peer.namespace_labels, "kubernetes.io/metadata.name": peer.namespace}
    if "namespaceSelector" in wanted:
        is_there = selects(wanted["namespaceSelector"], place)
    else:
        is_there = peer.namespace == own_namespace
    return is_there and selects(wanted.get("podSelector", {}), peer.labels)


def _is_in(block: Mapping[str, Any], address: str) -> bool:
    found = ipaddress.ip_address(address)
    return found in ipaddress.ip_network(block["cidr"]) and not any(
        found in ipaddress.ip_network(left_out) for left_out in block.get("except", [])
    )


def _has_port(ports: list[dict[str, Any]] | None, port: int) -> bool:
    # Numbers only: not every network knows the names of other pods' ports.
    return not ports or any(p["port"] == port for p in ports)
