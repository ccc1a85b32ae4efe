"""Keeps a cluster's routes what a release says: level by level, and never more than it says.

Each call reads what is there and makes it so; nothing is remembered between two. Somebody else's
change is told of, and undone only if it gives the canary more: who lowers a weight by hand in an
emergency is not overruled. What an older policy says never replaces what a newer one said.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import Any

from canary_engine.model import BUCKETS, Policy, Variant

from canary_istio.cluster import Cluster, Object
from canary_istio.errors import Conflict, Denied, Raced, Unreachable
from canary_istio.routes import Mesh, Routes, routes

REVISION, DIGEST = "canary-release/revision", "canary-release/digest"
"""Annotations: the policy's revision that last changed an object, and what it then was."""

_OURS = {"VirtualService": ("hosts", "http"), "DestinationRule": ("host", "subsets")}


class Standing(StrEnum):
    """How a cluster's routes are to the release's."""

    IN_STEP = "in-step"
    APPLIED = "applied"
    TAKEN_BACK = "taken-back"
    LEFT_LOWER = "left-lower"
    OUTDATED = "outdated"
    RACED = "raced"
    UNPROTECTED = "unprotected"
    HELD = "held"
    DENIED = "denied"


_FOLLOWS = frozenset({Standing.IN_STEP, Standing.APPLIED, Standing.TAKEN_BACK})
_GRAVITY = tuple(Standing)
"""Of two objects' standings the graver one counts: the later here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What came of one call.

    ``share`` is what the mesh gives the canary by weight now, of ``BUCKETS`` and rounded up; None
    if that is not known. ``drift`` tells what somebody else changed.
    """

    standing: Standing
    why: str = ""
    share: int | None = None
    drift: tuple[str, ...] = ()

    @property
    def may_rise(self) -> bool:
        """Whether the release may give the canary more: the mesh follows it."""
        return self.standing in _FOLLOWS

    @property
    def is_alarming(self) -> bool:
        """Whether people should hear of it."""
        return bool(self.drift) or self.standing not in _FOLLOWS | {Standing.RACED}


async def keep(policy: Policy, mesh: Mesh, cluster: Cluster, *, leave_out: bool = False) -> Kept:
    """Make the routes in ``mesh.namespace`` those of ``policy``, and say how they stand.

    Routes that would give the canary to somebody whom the policy keeps on stable are not made, but
    those that give it to nobody, unless ``leave_out``. Never raises a ClusterError: who calls next
    time tries again.
    """
    made, why = routes(policy, mesh), ""
    if made.unprotected and not leave_out:
        why = "; ".join(f"{part.what}: {part.why}" for part in made.unprotected)
        made = routes(replace(policy, release=None), mesh)
    try:
        kept = await _kept(policy, mesh, cluster, made)
    except Unreachable as error:
        return Kept(standing=Standing.HELD, why=str(error))
    except Denied as error:
        return Kept(standing=Standing.DENIED, why=str(error))
    except Raced as error:
        return Kept(standing=Standing.RACED, why=str(error))
    if why and kept.may_rise:
        return replace(kept, standing=Standing.UNPROTECTED, why=why)
    return kept


async def _kept(policy: Policy, mesh: Mesh, cluster: Cluster, made: Routes) -> Kept:
    live = {
        wanted["kind"]: await cluster.read(wanted["kind"], mesh.namespace, mesh.name)
        for wanted in made.objects
    }
    is_made = None in live.values()
    if is_made:
        live = await _created(policy, mesh, cluster)
    service = live["VirtualService"]
    is_urgent = service is not None and not no_more(service, made.virtual_service)
    # Subsets before who names them; but nothing stands before taking the canary away.
    order = reversed(made.objects) if is_urgent else made.objects
    found = [await _settle(cluster, w, live[w["kind"]], policy) for w in order]
    standing, why = max(((s, w) for s, w, _ in found), key=lambda one: _GRAVITY.index(one[0]))
    if is_made and standing is Standing.IN_STEP:
        standing = Standing.APPLIED
    left = {Standing.LEFT_LOWER, Standing.OUTDATED}
    shown = service if service is not None and standing in left else made.virtual_service
    drift = tuple(line for _, _, lines in found for line in lines)
    return Kept(standing=standing, why=why, share=share_in(shown), drift=drift)


async def _created(policy: Policy, mesh: Mesh, cluster: Cluster) -> dict[str, Object | None]:
    """Both objects, made to give nobody the canary: whoever makes them late does no harm, and
    from here on each write is for the state that was read."""
    nobody = routes(replace(policy, release=None), mesh)
    for wanted in nobody.objects:
        if await cluster.read(wanted["kind"], mesh.namespace, mesh.name) is None:
            await cluster.apply(wanted, force=False)
    return {
        wanted["kind"]: await cluster.read(wanted["kind"], mesh.namespace, mesh.name)
        for wanted in nobody.objects
    }


async def _settle(
    cluster: Cluster, wanted: Object, live: Object | None, policy: Policy
) -> tuple[Standing, str, list[str]]:
    """Make one object so: how it stands, why, and what somebody else changed."""
    if live is None:
        raise Raced(f"{wanted['kind']} {wanted['metadata']['name']} was removed")
    name = f"{wanted['kind']} {wanted['metadata']['name']}"
    notes = live["metadata"].get("annotations") or {}
    is_stamped, body = not {REVISION, DIGEST}.isdisjoint(notes), _stamped(wanted, live, policy)
    if _is_same(live, wanted):
        if not is_stamped:
            # Somebody made it for us: from here on a change of it can be told from what it was.
            await cluster.apply(body, force=False)
        return Standing.IN_STEP, "", []
    if not is_stamped and (what := _not_ours(live)):
        raise Denied(f"{name} was not made for releases, and has {what}: move that elsewhere first")
    stated = _revision(notes.get(REVISION))
    if stated > policy.revision and not no_more(wanted, live):
        why = f"{name} was made from revision {stated}, and this is {policy.revision}"
        return Standing.OUTDATED, why, []
    is_as_made = notes.get(DIGEST) == _digest(live)
    is_changed = not is_as_made and DIGEST in notes
    drift = [f"{name} is not what revision {stated} made it"] if is_changed else []
    try:
        await cluster.apply(body, force=is_as_made)
    except Conflict as conflict:
        drift += [f"{name}: {cause}" for cause in conflict.causes]
        if no_more(live, wanted) and not no_more(wanted, live):
            return Standing.LEFT_LOWER, f"{name}: somebody gave the canary less", drift
        await cluster.apply(body, force=True)
        return Standing.TAKEN_BACK, f"{name}: somebody's change was undone", drift
    return (Standing.TAKEN_BACK if drift else Standing.APPLIED), "", drift


def _not_ours(live: Object) -> str:
    """What an object has that would be lost if its routes or subsets became ours; "" if nothing."""
    if live["kind"] == "VirtualService":
        return "" if all(map(_is_read, _routes(live))) else "routes that say more than weights"
    subsets = (live.get("spec") or {}).get("subsets") or []
    others = {str(subset.get("name")) for subset in subsets} - set(Variant)
    return f"the subsets {', '.join(sorted(others))}" if others else ""


def _is_same(live: Object, wanted: Object) -> bool:
    return _ours(live) == _ours(wanted)


def _ours(thing: Object) -> Object:
    """The fields that we set; others may be somebody else's."""
    spec = thing.get("spec") or {}
    return {name: spec.get(name) for name in _OURS[thing["kind"]]}


def _digest(thing: Object) -> str:
    text = json.dumps(_ours(thing), sort_keys=True, ensure_ascii=False)
    return sha256(text.encode()).hexdigest()


def _revision(text: object) -> int:
    """The revision in an annotation; 0 if there is none."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else 0


def _stamped(wanted: Object, live: Object, policy: Policy) -> Object:
    """With what it is made from, and for that state of the object which was read."""
    metadata = {
        **wanted["metadata"],
        "resourceVersion": live["metadata"]["resourceVersion"],
        "annotations": {REVISION: str(policy.revision), DIGEST: _digest(wanted)},
    }
    return {**wanted, "metadata": metadata}


def no_more(live: Object, wanted: Object) -> bool:
    """Whether ``live`` surely gives the canary to nobody to whom ``wanted`` does not.

    True only of virtual services, and if it gives it to nobody, or differs in weights alone.
    """
    if wanted["kind"] != "VirtualService":
        return False
    ours, theirs = _routes(wanted), _routes(live)
    if theirs and all(_is_read(route) and _share(route) == 0 for route in theirs):
        return True
    return len(theirs) == len(ours) and all(
        _is_read(one) and one.get("match") == other.get("match") and _share(one) <= _share(other)
        for one, other in zip(theirs, ours, strict=True)
    )


def share_in(service: Object) -> int:
    """What the last route gives the canary, of ``BUCKETS`` and rounded up."""
    return math.ceil(_share(_routes(service)[-1])) if _routes(service) else 0


def _routes(service: Object) -> list[Any]:
    found = (service.get("spec") or {}).get("http")
    return found if isinstance(found, list) else []


def _is_read(route: Any) -> bool:
    """Whether a route does no more than choose between our subsets: no redirect, no mirror."""
    return set(route) <= {"match", "route"} and all(
        set(part) <= {"destination", "weight"}
        and part.get("destination", {}).get("subset") in set(Variant)
        for part in route.get("route", [])
    )


def _share(route: Any) -> float:
    parts = route.get("route", [])
    total = sum(_weight(part, parts) for part in parts)
    given = sum(
        _weight(part, parts)
        for part in parts
        if part.get("destination", {}).get("subset") != Variant.STABLE
    )
    return given * BUCKETS / total if total else 0


def _weight(part: Any, parts: list[Any]) -> int:
    """A destination without others takes everything, whatever its weight."""
    return 1 if len(parts) == 1 else int(part.get("weight", 0))
