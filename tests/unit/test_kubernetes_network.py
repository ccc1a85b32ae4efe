"""The NetworkPolicies allow every arrow that the architecture has, and no other."""

from __future__ import annotations

import pytest
from support.manifests import NAMESPACE, OVERLAYS, of_kind, pods
from support.network_policies import Peer, arrows

ELSEWHERE = (443, 5432, 6379, 6380)
OUTSIDE = [
    Peer(
        name="dns", namespace="kube-system", labels={"k8s-app": "kube-dns"}, ports=frozenset({53})
    ),
    Peer(
        name="dns-cache",
        namespace="kube-system",
        labels={"k8s-app": "node-local-dns"},
        ports=frozenset({53}),
    ),
    Peer(name="dns-on-the-node", address="169.254.20.10", ports=frozenset({53, 8080})),
    Peer(name="dns-of-openshift", namespace="openshift-dns", ports=frozenset({5353})),
    Peer(name="api-server", namespace="kube-system", ports=frozenset({6443})),
    Peer(name="prometheus", namespace="monitoring", ports=frozenset({9090})),
    Peer(name="stranger", namespace="default", ports=frozenset({80})),
    Peer(name="internet", address="203.0.113.9", ports=frozenset(ELSEWHERE)),
    Peer(name="credentials", address="169.254.169.254", ports=frozenset({80, 443})),
    # In the cluster, and known by a label of their namespaces.
    *(
        Peer(
            name=what,
            namespace=f"{what}-namespace",
            namespace_labels={f"canary-release/{what}": "true"},
            ports=frozenset(ports),
        )
        for what, ports in {
            "caller": (8080,),
            "redis": (5432, 6379, 6380),
            "webhooks": (8443,),
            "backend": (5432,),
        }.items()
    ),
    # The same in a namespace that nobody labelled.
    Peer(name="unlabelled", namespace="data", ports=frozenset({*ELSEWHERE, 8443})),
    Peer(name="denied", namespace="shop", namespace_labels={"canary-release/caller": "false"}),
]
API = ("yyc3-xy-api-stable", "yyc3-xy-api-canary")
# Whatever else somebody starts in our namespace.
NEWCOMER = Peer(name="newcomer", namespace=NAMESPACE, ports=frozenset({8080}))
OURS = ("kong", "decision-svc", "controller", "newcomer", *API)

NAMES = {
    ("dns", 53),
    ("dns-cache", 53),
    ("dns-on-the-node", 53),
    ("dns-of-openshift", 5353),
}
NEEDED = {
    *((who.name, "kong", 8000) for who in OUTSIDE),
    ("kong", "decision-svc", 50051),
    *(("kong", version, 1229) for version in API),
    ("controller", "decision-svc", 9091),
    *(("caller", version, 1229) for version in API),
    *((who, dns, port) for who in OURS for dns, port in NAMES),
}
ONLY_IN = {
    "demo": {
        ("decision-svc", "demo-redis", 6379),
        *(("demo-redis", dns, port) for dns, port in NAMES),
    },
    "production": {
        ("prometheus", "decision-svc", 9464),
        ("prometheus", "kong", 9465),
        ("prometheus", "controller", 9466),
        ("controller", "prometheus", 9090),
        ("controller", "internet", 443),
        ("controller", "webhooks", 8443),
        *(("decision-svc", "internet", port) for port in (443, 6379, 6380)),
        *(("decision-svc", "redis", port) for port in (6379, 6380)),
        *((version, "backend", 5432) for version in API),
        *((version, "internet", port) for version in API for port in ELSEWHERE),
    },
}


def world(overlay: str) -> list[Peer]:
    inside = [
        Peer(
            # Not to be taken for one in another namespace.
            name="demo-redis" if found.name == "redis" else found.name,
            namespace=NAMESPACE,
            labels=found.labels,
            ports=frozenset(found.ports.values()),
        )
        for found in pods(overlay).values()
    ]
    return [*inside, NEWCOMER, *OUTSIDE]


def allowed(overlay: str, left_out: str = "") -> set[tuple[str, str, int]]:
    policies = of_kind(overlay, "NetworkPolicy")
    assert not left_out or left_out in policies
    kept = [policy for name, policy in policies.items() if name != left_out]
    # Between those who are not ours everything is allowed; it says nothing.
    theirs = {peer.name for peer in OUTSIDE}
    return {
        (one, other, port)
        for one, other, port in arrows(kept, world(overlay))
        if not {one, other} <= theirs
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_arrow_of_the_architecture_is_allowed_and_no_other(overlay: str) -> None:
    assert allowed(overlay) == NEEDED | ONLY_IN[overlay]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_policy_is_needed(overlay: str) -> None:
    for name in of_kind(overlay, "NetworkPolicy"):
        without = allowed(overlay, left_out=name)
        if name == "default-deny":
            assert without > allowed(overlay)
        else:
            assert without < allowed(overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_policies_name_ports_by_number(overlay: str) -> None:
    for policy in of_kind(overlay, "NetworkPolicy").values():
        rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
        for port in (port for rule in rules for port in rule.get("ports", [])):
            assert isinstance(port["port"], int)
            assert port["protocol"] in {"TCP", "UDP"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_may_be_asked_by_either_protocol(overlay: str) -> None:
    for rule in of_kind(overlay, "NetworkPolicy")["dns"]["spec"]["egress"]:
        (port,) = {port["port"] for port in rule["ports"]}
        assert rule["ports"] == [{"protocol": way, "port": port} for way in ("UDP", "TCP")]


def test_an_address_outside_is_no_pod_of_the_cluster() -> None:
    everywhere = {
        "metadata": {"namespace": NAMESPACE},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}],
        },
    }
    found = arrows([everywhere], [NEWCOMER, *OUTSIDE])
    reached = {other for one, other, _ in found if one == NEWCOMER.name}
    assert reached == {"internet", "credentials", "dns-on-the-node"}
