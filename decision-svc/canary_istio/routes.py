"""A policy as Istio's objects: who is forced first, then weights; what a mesh cannot do is told.

Pure, and the same policy always gives the same objects. The fields used are those of
https://istio.io/latest/docs/reference/config/networking/virtual-service/ and destination-rule/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from canary_engine.model import BUCKETS, Anonymous, Policy, Reason, Release, Variant
from canary_engine.stages import CHOSEN_BY

from canary_istio.matches import LeftOut, Match, incompatible, of_rule

API_VERSION = "networking.istio.io/v1beta1"
PERCENT = 100

Object = dict[str, Any]
"""A Kubernetes object as a plain document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Whose routes they are: a host of the mesh whose pods have the label ``version``, stable or
    canary. Without a namespace the objects go where they are applied; ``called`` is the name of
    both where it is not the host's."""

    host: str
    namespace: str = ""
    called: str = ""

    @property
    def name(self) -> str:
        """The name of both objects: the host's without its domain, unless it is another."""
        return self.called or self.host.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The two objects, and what of the policy is not in them. ``share`` is of ``BUCKETS``."""

    virtual_service: Object
    destination_rule: Object
    left_out: tuple[LeftOut, ...]
    share: int

    @property
    def objects(self) -> tuple[Object, Object]:
        """Both, in the order in which they may be applied: subsets before who names them."""
        return (self.destination_rule, self.virtual_service)

    @property
    def unprotected(self) -> tuple[LeftOut, ...]:
        """What would have kept somebody on stable whom these routes may give the canary."""
        return tuple(part for part in self.left_out if part.protects) if self._exposes else ()

    @property
    def _exposes(self) -> bool:
        first = [route["route"][0] for route in self.virtual_service["spec"]["http"][:-1]]
        return self.share > 0 or any(r["destination"]["subset"] == Variant.CANARY for r in first)


def routes(policy: Policy, mesh: Mesh) -> Routes:
    """The routes of a policy. Without a release that takes traffic everybody gets stable."""
    release = taking_traffic(policy)
    forced: list[Object] = []
    left_out: list[LeftOut] = []
    if release is not None:
        for part in _forced(policy, release):
            if isinstance(part, LeftOut):
                left_out.append(part)
            else:
                matches, variant = part
                whole = [_destination(mesh, variant, PERCENT)]
                forced.append({"match": list(matches), "route": whole})
        left_out += _never(policy, release)
    share = share_of(release)
    spec = {"hosts": [mesh.host], "http": [*forced, {"route": _weighted(mesh, share)}]}
    return Routes(
        virtual_service=_object("VirtualService", mesh, spec),
        destination_rule=_object("DestinationRule", mesh, _subsets(mesh)),
        left_out=tuple(left_out),
        share=share,
    )


def taking_traffic(policy: Policy) -> Release | None:
    """The release that gives somebody the canary; None if none does."""
    release = policy.release
    if release is None or not release.is_in_force or release.halted:
        return None
    return release


def share_of(release: Release | None) -> int:
    """The share that the release's percentage gives the canary, of ``BUCKETS``."""
    if release is None or Reason.PERCENTAGE not in CHOSEN_BY[release.strategy]:
        return 0
    return release.share


def _forced(
    policy: Policy, release: Release
) -> Iterator[tuple[tuple[Match, ...], Variant] | LeftOut]:
    """Who is forced, in the order in which decisions look."""
    for rule in policy.rules:
        found = of_rule(rule)
        yield found if isinstance(found, LeftOut) else (found, rule.variant)
    for found in incompatible(policy.compatibility, release.version):
        yield found if isinstance(found, LeftOut) else (found, Variant.STABLE)


def _never(policy: Policy, release: Release) -> Iterator[LeftOut]:
    """What takes part in decisions and has no place in routes."""
    chosen = CHOSEN_BY[release.strategy]
    if policy.overrides.public_key:
        yield LeftOut("overrides", "a mesh cannot check a token's signature")
    listed = policy.whitelist
    if listed.ips or listed.users or listed.consumers:
        yield LeftOut("the whitelist", "who is on it gets the canary no more often than others")
    for segment in policy.segments if Reason.SEGMENT in chosen else ():
        yield LeftOut(
            f"segment {segment.name}",
            "a mesh does not know users",
            protects=not segment.canary_eligible,
        )
    for flag in policy.flags if Reason.FLAG in chosen else ():
        yield LeftOut(f"flag {flag.name}", "a mesh does not know users")
    if policy.bucketing.anonymous is Anonymous.STABLE and share_of(release):
        yield LeftOut("clients without a hash key", "a mesh draws for everybody", protects=True)


def _weighted(mesh: Mesh, share: int) -> list[Object]:
    """Percent where they say it exactly, else the share itself: never more than the release's."""
    step = BUCKETS // PERCENT
    canary, whole = (share // step, PERCENT) if share % step == 0 else (share, BUCKETS)
    return [
        _destination(mesh, Variant.STABLE, whole - canary),
        _destination(mesh, Variant.CANARY, canary),
    ]


def _destination(mesh: Mesh, variant: Variant, weight: int) -> Object:
    return {"destination": {"host": mesh.host, "subset": str(variant)}, "weight": weight}


def _subsets(mesh: Mesh) -> Object:
    subsets = [{"name": str(v), "labels": {"version": str(v)}} for v in Variant]
    return {"host": mesh.host, "subsets": subsets}


def _object(kind: str, mesh: Mesh, spec: Object) -> Object:
    metadata = {"name": mesh.name, **({"namespace": mesh.namespace} if mesh.namespace else {})}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
