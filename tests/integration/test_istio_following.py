"""Meshes are looked at when something changed and now and then, and never by who may not act."""

from __future__ import annotations

import asyncio
import copy
import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog
import yaml
from aiohttp import ClientSession
from canary_controller.admin import Policies
from canary_controller.errors import Refused, Unknown, Unreachable
from canary_controller.mesh.following import (
    AGAIN,
    DRIFT_SHOWN,
    FRESH,
    LOOK_EVERY,
    FollowingMeshes,
    Seen,
)
from canary_controller.mesh.settings import Entry
from canary_engine import parse
from canary_engine.mesh import NO_MESH
from canary_engine.model import Policy
from canary_istio.api_server import ApiServer
from canary_istio.cluster import Cluster, Object
from canary_istio.keeping import Standing
from canary_istio.routes import Mesh, routes
from support.calls import until_so
from support.istio import weights
from support.kube_api import TOKEN, KubeApi, running_kube_api

DATA = Path(__file__).resolve().parents[1] / "data/istio"
DOCUMENT = yaml.safe_load((DATA / "seed.policy.yaml").read_text())
KEY, VS, NAME = str(DOCUMENT["service_key"]), "VirtualService", "yyc3-xy-api"
MESH = Mesh(host=NAME, namespace="shop")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EDITED = "kubectl-edit"


class Store(Policies):
    """What is stored, and who asks."""

    def __init__(self) -> None:
        self.stored: Policy | None = policy(5, 10)
        self.is_away, self.refusal = False, ""
        self.asked = 0

    async def policy(self, service_key: str) -> Policy:
        self.asked += 1
        if self.is_away:
            raise Unreachable("nobody there")
        if self.refusal:
            raise Refused(self.refusal)
        if self.stored is None or service_key != KEY:
            raise Unknown(service_key)
        return self.stored


class Looks:
    """Every look, as it is counted."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[Seen] = asyncio.Queue()
        self.forgotten = 0

    def mesh_looked(self, service_key: str, seen: Seen) -> None:
        assert service_key == KEY
        self.seen.put_nowait(seen)

    def meshes_forgotten(self) -> None:
        self.forgotten += 1


class World:
    """One mesh that follows what is stored; time passes as a test says."""

    def __init__(self, api: KubeApi, cluster: ApiServer) -> None:
        self.cluster = cluster
        self.api, self.store, self.looks = api, Store(), Looks()
        self.now, self.is_leader = NOW, True
        entries = {KEY: Entry(mesh=MESH)}
        self.meshes = FollowingMeshes(entries, self.store, cluster, self.looks)

    def tick(self, after: timedelta = timedelta(0), revision: int | None = None) -> None:
        """A tick of the controller, which has heard of a revision, the stored one by default."""
        self.now += after
        stored = self.store.stored
        found = revision or (stored.revision if stored is not None else 0)
        self.meshes.see({KEY: found}, self.now, lambda: self.is_leader)

    async def look(self, after: timedelta = timedelta(0)) -> Seen:
        """What comes of the look that this tick begins."""
        self.tick(after)
        return await self.looked()

    async def looked(self) -> Seen:
        """What comes of the look that is in progress, once it is over."""
        async with asyncio.timeout(15):
            found = await self.looks.seen.get()
        for _ in range(3):
            await asyncio.sleep(0)
        return found

    async def is_quiet(self, after: timedelta) -> bool:
        """Whether a tick begins no look."""
        asked = self.store.asked
        self.tick(after)
        for _ in range(3):
            await asyncio.sleep(0)
        return self.store.asked == asked

    @property
    def canary(self) -> float:
        """The percentage that the mesh gives the canary."""
        return canary_in(self.api.spec(VS, NAME))

    def sight(self, stored: Policy | None = None) -> Any:
        """How the mesh stands beside what is stored."""
        found = stored or self.store.stored
        assert found is not None
        return self.meshes.sight(found, self.now)


def canary_in(service: dict[str, Any]) -> float:
    """The percentage that routes give the canary of requests that nobody forces."""
    found: dict[str, int] = weights({"spec": service}, {}, "/")
    return 100 * found.get("canary", 0) / sum(found.values())


def policy(percentage: float, revision: int, **release: Any) -> Policy:
    changed = {**DOCUMENT["release"], "percentage": percentage, **release}
    return parse.policy({**DOCUMENT, "revision": revision, "release": changed})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    async with running_kube_api() as api, ClientSession() as session:
        found = World(api, ApiServer(session, api.url, token_file=str(token)))
        try:
            yield found
        finally:
            if api.hang is not None:
                api.hang.set()
            await found.meshes.close()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))
    yield
    structlog.reset_defaults()


async def test_a_mesh_is_looked_at_when_its_policy_changed_and_now_and_then(world: World) -> None:
    assert world.sight().held == "its mesh has not been looked at yet"
    assert (await world.look()).kept.standing is Standing.APPLIED
    assert world.sight() == NO_MESH
    assert await world.is_quiet(LOOK_EVERY / 2)
    assert (await world.look(LOOK_EVERY / 2)).kept.standing is Standing.IN_STEP
    world.store.stored = policy(20, 11)
    assert world.sight().held == "its mesh is brought to revision 11"
    assert (await world.look()).share == 20_000
    assert (world.sight(), world.canary) == (NO_MESH, 20)


async def test_a_service_key_without_a_mesh_is_not_held(world: World) -> None:
    other = replace(policy(5, 10), service_key="another")
    assert world.meshes.sight(other, NOW) == NO_MESH


@pytest.mark.parametrize(
    "after", [policy(20, 11, halted=True), policy(20, 11, status="rolled-back"), policy(0, 11)]
)
async def test_who_gets_nothing_any_more_gets_nothing_of_the_mesh(
    world: World, after: Policy
) -> None:
    world.store.stored = policy(20, 10)
    await world.look()
    world.store.stored = after
    seen = await world.look()
    assert (seen.wanted, seen.share, world.canary) == (0, 0, 0)
    # Also long after the end: nobody follows the release any more, and the mesh is looked at.
    world.meshes.see({}, world.now + LOOK_EVERY, lambda: True)
    assert (await world.looked()).kept.standing is Standing.IN_STEP


async def test_an_api_server_that_is_away_holds_the_release_until_it_is_back(world: World) -> None:
    await world.look()
    await world.api.stop()
    seen = await world.look(LOOK_EVERY)
    assert (seen.kept.standing, seen.share) == (Standing.HELD, 5_000), "as far as is known"
    found = world.sight()
    assert "its mesh is not in step (held): the API server cannot be reached" in found.held
    assert (found.trouble, found.exceeds) == (found.held, False)
    assert await world.is_quiet(AGAIN / 2)
    await world.api.start()
    assert (await world.look(AGAIN)).kept.standing is Standing.IN_STEP
    assert world.sight() == NO_MESH


async def test_a_release_that_is_about_to_rise_waits_for_one_more_look(world: World) -> None:
    await world.look()
    stored = world.store.stored
    assert stored is not None
    world.now += timedelta(seconds=1)
    for _ in range(2):
        assert world.meshes.hold(stored, world.now) == "its mesh is looked at before it rises"
    await world.look()
    assert world.meshes.hold(stored, world.now + timedelta(seconds=1)) == ""
    # For the next raise it is asked anew, and a clock that is set back makes nobody wait for it.
    assert world.meshes.hold(stored, world.now + timedelta(seconds=2))
    world.now -= timedelta(hours=1)
    assert world.meshes.hold(stored, world.now)
    await world.look(timedelta(seconds=1))
    assert world.meshes.hold(stored, world.now + timedelta(seconds=1)) == ""
    assert world.meshes.hold(replace(stored, service_key="another"), world.now) == ""


async def test_a_rollback_that_does_not_reach_the_mesh_is_told_as_too_much(world: World) -> None:
    await world.look()
    await world.api.stop()
    world.store.stored = policy(5, 11, status="rolled-back")
    seen = await world.look()
    assert (seen.wanted, seen.share) == (0, 5_000)
    assert world.sight().exceeds
    await world.api.start()
    assert (await world.look(AGAIN)).share == 0
    assert (world.sight(), world.canary) == (NO_MESH, 0)


async def test_a_mesh_that_was_never_seen_may_give_anything(world: World) -> None:
    await world.api.stop()
    await world.look()
    assert not world.sight().exceeds
    assert world.sight(policy(5, 10, halted=True)).exceeds


async def test_a_cluster_that_hangs_makes_nobody_wait_and_is_not_asked_twice(world: World) -> None:
    world.api.hang = asyncio.Event()
    world.tick()
    await until_so(lambda: bool(world.api.requests))
    for _ in range(5):
        assert await world.is_quiet(LOOK_EVERY)
    assert world.sight().held == "its mesh has not been looked at yet"
    world.api.hang.set()
    assert (await world.looked()).kept.standing is Standing.APPLIED


async def test_what_was_seen_long_ago_lets_no_release_rise(world: World) -> None:
    await world.look()
    assert world.meshes.sight(policy(5, 10), world.now + FRESH).held.startswith(
        "its mesh has not been looked at since 12:00:00 UTC"
    )


async def test_who_has_lost_the_lease_meanwhile_writes_nothing(world: World) -> None:
    await world.look()
    world.api.hang = asyncio.Event()
    world.store.stored = policy(20, 11)
    read = len(world.api.requests)
    world.tick()
    await until_so(lambda: len(world.api.requests) > read)
    world.is_leader = False
    world.api.hang.set()
    seen = await world.looked()
    assert (seen.kept.standing, seen.kept.why) == (
        Standing.RACED,
        "this controller has lost its lease",
    )
    assert world.canary == 5


async def test_who_has_heard_of_a_rollback_meanwhile_does_not_raise_the_mesh(world: World) -> None:
    await world.look()
    world.api.hang = asyncio.Event()
    world.store.stored = policy(20, 11)
    read = len(world.api.requests)
    world.tick()
    await until_so(lambda: len(world.api.requests) > read)
    world.store.stored = policy(20, 12, status="rolled-back")
    world.tick()
    world.api.hang.set()
    assert (await world.looked()).kept.why == "revision 12 is newer"
    assert [len(world.api.written), world.canary] == [2, 5]
    assert (await world.look()).share == 0


async def test_a_controller_that_was_replaced_looks_at_nothing_and_remembers_nothing(
    world: World,
) -> None:
    await world.look()
    world.api.hang = asyncio.Event()
    world.store.stored = policy(20, 11)
    read = len(world.api.requests)
    world.tick()
    await until_so(lambda: len(world.api.requests) > read)
    world.meshes.forget()
    assert world.looks.forgotten == 1
    world.api.hang.set()
    assert world.sight().held == "its mesh has not been looked at yet"
    # It has the lease again: what it was about to write then is looked at anew.
    world.store.stored = policy(3, 12)
    assert (await world.look()).share == 3_000
    assert 20 not in [service["http"][-1]["route"][1]["weight"] for _, service in world.api.written]


async def test_what_somebody_raised_is_undone_and_told_of_for_a_while(world: World) -> None:
    await world.look()
    more = routes(policy(60, 10), MESH).virtual_service["spec"]["http"]
    world.api.edit(VS, NAME, EDITED, http=copy.deepcopy(more))
    seen = await world.look(LOOK_EVERY)
    assert (seen.kept.standing, world.canary) == (Standing.TAKEN_BACK, 5)
    found = world.sight()
    assert (found.held, found.trouble) == ("", "")
    assert EDITED in found.drift
    assert found.drift.endswith("It was undone")
    await world.look(DRIFT_SHOWN - timedelta(seconds=1))
    assert world.sight().drift == found.drift
    world.now += timedelta(seconds=1)
    assert world.sight() == NO_MESH


async def test_what_somebody_lowered_stays_is_told_of_and_holds_the_release(world: World) -> None:
    await world.look()
    less = routes(policy(1, 10), MESH).virtual_service["spec"]["http"]
    world.api.edit(VS, NAME, EDITED, http=copy.deepcopy(less))
    for _ in range(3):
        seen = await world.look(LOOK_EVERY)
        found = world.sight()
        assert (seen.kept.standing, world.canary) == (Standing.LEFT_LOWER, 1)
        assert "the release is not raised" in found.drift
        assert (bool(found.held), found.trouble) == (True, "")


async def test_a_service_key_that_has_no_policy_is_told_as_such(world: World) -> None:
    world.store.stored = None
    seen = await world.look()
    assert seen.kept.standing is Standing.DENIED
    assert "spelled right" in seen.kept.why
    assert world.api.requests == [], "nothing is touched"


async def test_a_policy_that_this_controller_may_not_read_is_told_as_such(world: World) -> None:
    await world.look()
    world.store.refusal = "the role viewer is needed"
    seen = await world.look(LOOK_EVERY)
    assert (seen.kept.standing, seen.share) == (Standing.DENIED, 5_000)
    assert "the role viewer is needed" in world.sight().trouble


async def test_a_store_that_cannot_be_asked_leaves_what_was_seen(world: World) -> None:
    await world.look()
    world.store.is_away = True
    assert not await world.is_quiet(LOOK_EVERY)
    assert world.sight() == NO_MESH
    assert world.looks.seen.empty()
    world.store.is_away = False
    assert (await world.look()).kept.standing is Standing.IN_STEP


async def test_routes_that_make_no_sense_hold_the_release_and_end_nothing(world: World) -> None:
    await world.look()
    parts = [{"destination": {"subset": s}, "weight": "much"} for s in ("stable", "canary")]
    world.api.edit(VS, NAME, EDITED, http=[{"route": parts}])
    seen = await world.look(LOOK_EVERY)
    assert seen.kept.standing is Standing.HELD
    assert "its routes cannot be read" in world.sight().trouble


class Slow:
    """A cluster whose calls wait until the test lets them go on."""

    def __init__(self, cluster: Cluster, waiting: list[asyncio.Future[None]]) -> None:
        self._cluster, self._waiting = cluster, waiting

    async def read(self, kind: str, namespace: str, name: str) -> Object | None:
        await self._way()
        return await self._cluster.read(kind, namespace, name)

    async def apply(self, wanted: Object, *, force: bool) -> None:
        await self._way()
        await self._cluster.apply(wanted, force=force)

    async def _way(self) -> None:
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(held)
        await held


@pytest.mark.parametrize("seed", range(4))
async def test_of_two_controllers_that_both_believe_to_lead_none_raises_what_the_other_lowered(
    world: World, seed: int
) -> None:
    chance, revision = Random(seed), 10
    calls: list[list[asyncio.Future[None]]] = [[], []]
    both = [
        FollowingMeshes({KEY: Entry(mesh=MESH)}, world.store, Slow(world.cluster, of), Looks())
        for of in calls
    ]
    awake = 0
    for _ in range(300):
        if chance.random() < 0.2:
            revision += 1
            world.store.stored = policy(
                chance.choice([1, 5, 20, 50]), revision, halted=chance.random() < 0.3
            )
        if chance.random() < 0.15:
            awake = 1 - awake  # the other one stands still, wherever it is
        world.now += AGAIN
        # It may not have heard yet of what is stored.
        heard = {KEY: revision} if chance.random() < 0.5 else {}
        both[awake].see(heard, world.now, lambda: True)
        await asyncio.sleep(0)
        if calls[awake]:
            await let_go(calls[awake].pop(), world.api)
    for before, after in pairwise(world.api.written):
        assert after[0] >= before[0] or canary_in(after[1]) <= canary_in(before[1])
    assert len(world.api.written) > 10
    for meshes in both:
        meshes.forget()
    seen = await world.look()
    assert seen.kept.may_rise
    assert world.canary == seen.wanted / 1_000


async def let_go(held: asyncio.Future[None], api: KubeApi) -> None:
    """Let a call go on, and wait until it is answered."""
    answered = api.answered
    if not held.done():
        held.set_result(None)
        await until_so(lambda: api.answered > answered)
