"""A cluster's routes are what the release says, and never give the canary more."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession, web
from canary_engine import parse
from canary_engine.model import Policy
from canary_istio.api_server import ApiServer
from canary_istio.cluster import MANAGER, Cluster, Object
from canary_istio.errors import Denied, Unreachable
from canary_istio.keeping import DIGEST, REVISION, Kept, Standing, keep, no_more
from canary_istio.routes import Mesh, routes
from support.istio import weights
from support.kube_api import TOKEN, KubeApi, running_kube_api

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data/istio"
DOCUMENT = yaml.safe_load((DATA / "seed.policy.yaml").read_text())
MESH = Mesh(host="yyc3-xy-api", namespace="shop")
VS, DR, NAME = "VirtualService", "DestinationRule", "yyc3-xy-api"


def policy(percentage: float = 5, revision: int = 10, **release: Any) -> Policy:
    changed = {**DOCUMENT["release"], "percentage": percentage, **release}
    return parse.policy({**DOCUMENT, "revision": revision, "release": changed})


@pytest.fixture
async def api() -> AsyncIterator[KubeApi]:
    async with running_kube_api() as api:
        yield api


@pytest.fixture
async def cluster(api: KubeApi, tmp_path: Path) -> AsyncIterator[ApiServer]:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    async with ClientSession() as session:
        yield ApiServer(session, api.url, token_file=str(token), deadline_s=5)


def canary(api: KubeApi) -> float:
    """The percentage that the mesh gives the canary of requests that nobody forces."""
    found: dict[str, int] = weights({"spec": api.spec(VS, NAME)}, {}, "/")
    return 100 * found.get("canary", 0) / sum(found.values())


async def test_what_is_not_there_is_made_and_what_is_there_stays(
    api: KubeApi, cluster: ApiServer
) -> None:
    kept = await keep(policy(), MESH, cluster)
    assert (kept.standing, kept.share, kept.drift) == (Standing.APPLIED, 5_000, ())
    assert kept.may_rise
    assert not kept.is_alarming
    made = routes(policy(), MESH)
    assert api.spec(VS, NAME) == made.virtual_service["spec"]
    assert api.spec(DR, NAME) == made.destination_rule["spec"]
    assert api.annotations(VS, NAME)[REVISION] == "10"

    api.requests.clear()
    assert (await keep(policy(revision=11), MESH, cluster)).standing is Standing.IN_STEP
    assert {request.partition(" ")[0] for request in api.requests} == {"GET"}


async def test_a_mesh_follows_its_release_up_and_down(api: KubeApi, cluster: ApiServer) -> None:
    for revision, percentage in enumerate([5, 25, 2.505, 100, 0], 1):
        kept = await keep(policy(percentage, revision), MESH, cluster)
        assert kept.may_rise
        assert canary(api) == pytest.approx(percentage)
        assert kept.share == percentage * 1_000
    kept = await keep(policy(50, 9, halted=True), MESH, cluster)
    assert (kept.share, canary(api)) == (0, 0)


async def test_the_first_routes_of_all_give_nobody_the_canary(
    api: KubeApi, cluster: ApiServer
) -> None:
    seen: list[float] = []

    class Watched:
        async def read(self, kind: str, namespace: str, name: str) -> Object | None:
            return await cluster.read(kind, namespace, name)

        async def apply(self, wanted: Object, *, force: bool) -> None:
            await cluster.apply(wanted, force=force)
            if wanted["kind"] == VS:
                seen.append(canary(api))

    watched: Cluster = Watched()
    await keep(policy(50), MESH, watched)
    assert seen == [0, 50]


async def test_subsets_are_there_before_a_route_names_them(
    api: KubeApi, cluster: ApiServer
) -> None:
    await keep(policy(), MESH, cluster)
    patched = [r for r in api.requests if r.startswith("PATCH")]
    assert patched[:2] == ["PATCH destinationrules", "PATCH virtualservices"]


async def test_who_gives_the_canary_more_is_overruled_and_told_of(
    api: KubeApi, cluster: ApiServer
) -> None:
    await keep(policy(), MESH, cluster)
    more = copy.deepcopy(routes(policy(60), MESH).virtual_service["spec"]["http"])
    api.edit(VS, NAME, "kubectl-edit", http=more)
    kept = await keep(policy(), MESH, cluster)
    assert kept.standing is Standing.TAKEN_BACK
    assert 'VirtualService yyc3-xy-api: .spec.http: conflict with "kubectl-edit"' in kept.drift
    assert kept.is_alarming
    assert canary(api) == 5
    assert api.managers(VS, NAME, "spec", "http") == {MANAGER}
    assert (await keep(policy(), MESH, cluster)).standing is Standing.IN_STEP


async def test_who_gives_the_canary_less_is_not_overruled_until_the_release_gives_less_yet(
    api: KubeApi, cluster: ApiServer
) -> None:
    await keep(policy(), MESH, cluster)
    less = copy.deepcopy(routes(policy(2), MESH).virtual_service["spec"]["http"])
    api.edit(VS, NAME, "kubectl-edit", http=less)
    for raised in (5, 20):
        kept = await keep(policy(raised, 11), MESH, cluster)
        assert kept.standing is Standing.LEFT_LOWER
        assert (kept.share, canary(api)) == (2_000, 2)
        assert kept.drift
        assert not kept.may_rise
    kept = await keep(policy(1, 12), MESH, cluster)
    assert (kept.standing, canary(api)) == (Standing.TAKEN_BACK, 1)


async def test_what_somebody_lowered_is_given_back_as_the_runbook_says(
    api: KubeApi, cluster: ApiServer
) -> None:
    await keep(policy(), MESH, cluster)
    less = copy.deepcopy(routes(policy(2), MESH).virtual_service["spec"]["http"])
    api.edit(VS, NAME, "kubectl-edit", http=less)
    assert (await keep(policy(), MESH, cluster)).standing is Standing.LEFT_LOWER
    # canaryctl render istio | kubectl apply --server-side --field-manager --force-conflicts
    for rendered in routes(policy(), MESH).objects:
        await cluster.apply(rendered, force=True)
    kept = await keep(policy(), MESH, cluster)
    assert (kept.standing, kept.drift) == (Standing.IN_STEP, ())
    kept = await keep(policy(20, 11), MESH, cluster)
    assert (kept.standing, kept.drift, canary(api)) == (Standing.APPLIED, (), 20)


async def test_who_gives_nobody_the_canary_in_other_words_is_not_waited_for(
    api: KubeApi, cluster: ApiServer
) -> None:
    await keep(policy(), MESH, cluster)
    stable = {"destination": {"host": NAME, "subset": "stable"}}
    api.edit(VS, NAME, "kubectl-edit", http=[{"route": [stable]}])
    assert (await keep(policy(), MESH, cluster)).standing is Standing.LEFT_LOWER
    # The release is over, and gives nobody the canary either: it need not be kept open for this.
    kept = await keep(policy(5, 11, status="rolled-back"), MESH, cluster)
    assert (kept.standing, canary(api)) == (Standing.TAKEN_BACK, 0)
    again = await keep(policy(5, 11, status="rolled-back"), MESH, cluster)
    assert again.standing is Standing.IN_STEP


async def test_somebody_s_own_fields_stay_theirs(api: KubeApi, cluster: ApiServer) -> None:
    await keep(policy(), MESH, cluster)
    limits = {"connectionPool": {"tcp": {"maxConnections": 100}}}
    api.edit(DR, NAME, "kubectl-edit", trafficPolicy=limits)
    api.edit(VS, NAME, "kubectl-edit", gateways=["mesh"])
    kept = await keep(policy(10, 11), MESH, cluster)
    assert (kept.standing, kept.drift) == (Standing.APPLIED, ())
    assert api.spec(DR, NAME)["trafficPolicy"] == limits
    assert api.spec(VS, NAME)["gateways"] == ["mesh"]


async def test_subsets_that_somebody_moved_are_moved_back(api: KubeApi, cluster: ApiServer) -> None:
    await keep(policy(), MESH, cluster)
    swapped = [{"name": "stable", "labels": {"version": "canary"}}]
    api.edit(DR, NAME, "kubectl-edit", subsets=swapped)
    kept = await keep(policy(), MESH, cluster)
    assert kept.standing is Standing.TAKEN_BACK
    assert api.spec(DR, NAME) == routes(policy(), MESH).destination_rule["spec"]


@pytest.mark.parametrize("kind", [VS, DR])
async def test_what_somebody_deleted_is_made_again(
    api: KubeApi, cluster: ApiServer, kind: str
) -> None:
    await keep(policy(), MESH, cluster)
    api.delete(kind, NAME)
    kept = await keep(policy(), MESH, cluster)
    assert kept.standing is Standing.APPLIED
    assert canary(api) == 5
    assert api.spec(DR, NAME) == routes(policy(), MESH).destination_rule["spec"]


async def test_routes_that_somebody_made_for_something_else_are_left_alone(
    api: KubeApi, cluster: ApiServer
) -> None:
    theirs = [{"route": [{"destination": {"host": NAME, "subset": "v1"}}], "timeout": "5s"}]
    api.put(VS, NAME, "kubectl", hosts=[NAME], http=theirs)
    kept = await keep(policy(), MESH, cluster)
    assert kept.standing is Standing.DENIED
    assert "VirtualService yyc3-xy-api was not made for releases" in kept.why
    assert api.spec(VS, NAME)["http"] == theirs

    api.delete(VS, NAME)
    api.put(DR, NAME, "kubectl", host=NAME, subsets=[{"name": "v1", "labels": {"v": "1"}}])
    kept = await keep(policy(), MESH, cluster)
    assert kept.standing is Standing.DENIED
    assert "has the subsets v1" in kept.why
    assert api.spec(DR, NAME)["subsets"] == [{"name": "v1", "labels": {"v": "1"}}]


def rendered(api: KubeApi, percentage: float) -> None:
    """Somebody applies what canaryctl has written."""
    made = routes(policy(percentage), MESH)
    for thing in made.objects:
        api.put(thing["kind"], NAME, "kubectl", **copy.deepcopy(thing["spec"]))


async def test_what_canaryctl_wrote_and_somebody_applied_is_kept_from_then_on(
    api: KubeApi, cluster: ApiServer
) -> None:
    rendered(api, 5)
    assert (await keep(policy(5), MESH, cluster)).standing is Standing.IN_STEP
    assert api.managers(VS, NAME, "spec", "http") == {MANAGER, "kubectl"}
    # Who has set the same has changed nothing: it is no drift, and keeps nobody from raising it.
    kept = await keep(policy(20, 11), MESH, cluster)
    assert (kept.standing, kept.drift, canary(api)) == (Standing.APPLIED, (), 20)


async def test_what_somebody_applied_at_less_is_left_until_somebody_says_otherwise(
    api: KubeApi, cluster: ApiServer
) -> None:
    rendered(api, 5)
    kept = await keep(policy(20), MESH, cluster)
    assert (kept.standing, canary(api)) == (Standing.LEFT_LOWER, 5)
    rendered(api, 20)
    assert (await keep(policy(20), MESH, cluster)).standing is Standing.IN_STEP
    assert (await keep(policy(50, 11), MESH, cluster)).standing is Standing.APPLIED


async def test_an_older_policy_never_gives_more_than_a_newer_one_did(
    api: KubeApi, cluster: ApiServer
) -> None:
    await keep(policy(5, 12), MESH, cluster)
    kept = await keep(policy(50, 11, id="r-0"), MESH, cluster)
    assert (kept.standing, kept.share, canary(api)) == (Standing.OUTDATED, 5_000, 5)
    assert "revision 12" in kept.why
    # Less is always allowed: a store that was restored from a copy must not leave traffic behind.
    assert (await keep(policy(1, 11), MESH, cluster)).standing is Standing.APPLIED
    assert canary(api) == 1


async def test_of_two_at_the_same_moment_one_wins_and_the_other_looks_again(
    api: KubeApi, cluster: ApiServer
) -> None:
    await keep(policy(5, 1), MESH, cluster)

    class Late:
        async def read(self, kind: str, namespace: str, name: str) -> Object | None:
            return await cluster.read(kind, namespace, name)

        async def apply(self, wanted: Object, *, force: bool) -> None:
            if wanted["kind"] == VS:
                await keep(policy(0, 3), MESH, cluster)  # a rollback comes in between
            await cluster.apply(wanted, force=force)

    late: Cluster = Late()
    kept = await keep(policy(50, 2), MESH, late)
    assert (kept.standing, canary(api)) == (Standing.RACED, 0)
    assert (await keep(policy(50, 2), MESH, cluster)).standing is Standing.OUTDATED
    assert canary(api) == 0


async def test_routes_that_would_give_protected_clients_the_canary_are_not_made(
    api: KubeApi, cluster: ApiServer
) -> None:
    segments = [{"name": "premium", "canary_eligible": False, "criteria": {"tiers": ["p"]}}]
    found = parse.policy({**DOCUMENT, "revision": 10, "segments": segments})
    kept = await keep(found, MESH, cluster)
    assert (kept.standing, kept.share, canary(api)) == (Standing.UNPROTECTED, 0, 0)
    assert "segment premium" in kept.why
    assert not kept.may_rise
    assert (await keep(found, MESH, cluster, leave_out=True)).standing is Standing.APPLIED
    assert canary(api) == 5


def status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "message": message}, status=code)


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_an_api_server_that_cannot_answer_holds_the_release(
    api: KubeApi, cluster: ApiServer, code: int
) -> None:
    await keep(policy(), MESH, cluster)
    api.answers = [status(code, "etcd is slow")]
    kept = await keep(policy(50, 11), MESH, cluster)
    assert (kept.standing, kept.share) == (Standing.HELD, None)
    assert "etcd is slow" in kept.why
    assert kept.is_alarming
    assert not kept.may_rise
    assert canary(api) == 5
    assert (await keep(policy(50, 11), MESH, cluster)).standing is Standing.APPLIED


async def test_an_api_server_that_hangs_holds_the_release(api: KubeApi, cluster: ApiServer) -> None:
    api.hang = asyncio.Event()
    async with ClientSession() as session:
        impatient = ApiServer(session, api.url, deadline_s=0.05)
        kept = await keep(policy(), MESH, impatient)
        with pytest.raises(Unreachable, match=r"did not answer within 0\.05 s"):
            await impatient.read(VS, "shop", NAME)
    api.hang.set()
    assert kept.standing is Standing.HELD
    assert (await keep(policy(), MESH, cluster)).standing is Standing.APPLIED


async def test_an_api_server_that_is_not_there_holds_the_release() -> None:
    async with ClientSession() as session:
        kept = await keep(policy(), MESH, ApiServer(session, "http://127.0.0.1:1"))
    assert kept.standing is Standing.HELD
    assert "cannot be reached" in kept.why


async def test_an_answer_that_is_no_object_holds_the_release(
    api: KubeApi, cluster: ApiServer
) -> None:
    api.answers = [web.Response(text="<html>a portal</html>")]
    assert (await keep(policy(), MESH, cluster)).standing is Standing.HELD


@pytest.mark.parametrize("verb", ["get", "create", "patch"])
async def test_a_missing_permission_is_told_by_name(
    api: KubeApi, cluster: ApiServer, verb: str
) -> None:
    api.verbs.remove(verb)
    kept = await keep(policy(), MESH, cluster)
    assert kept.standing is Standing.DENIED
    assert f"cannot {verb} resource" in kept.why
    assert kept.is_alarming


def granted() -> dict[str, set[str]]:
    """What the Role in deploy/kubernetes lets the controller do, by plural."""
    text = (ROOT / "deploy/kubernetes/components/istio/access.yaml").read_text()
    role = next(found for found in yaml.safe_load_all(text) if found["kind"] == "Role")
    found: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for plural in rule["resources"]:
            found.setdefault(plural, set()).update(rule["verbs"])
    return found


async def test_the_role_that_is_shipped_is_enough_for_everything_and_nothing_in_it_is_too_much(
    api: KubeApi, cluster: ApiServer
) -> None:
    api.role = granted()
    for percentage, revision in ((5, 1), (50, 2), (0, 3)):
        assert (await keep(policy(percentage, revision), MESH, cluster)).may_rise
    for plural, verbs in granted().items():
        for verb in verbs:
            for kind in (VS, DR):
                api.delete(kind, NAME)
            api.role = {**granted(), plural: verbs - {verb}}
            assert (await keep(policy(), MESH, cluster)).standing is Standing.DENIED, verb
            api.role = granted()
            assert (await keep(policy(), MESH, cluster)).may_rise


async def test_a_cluster_without_istio_is_told(api: KubeApi, cluster: ApiServer) -> None:
    api.is_installed = False
    with pytest.raises(Denied, match="404 page not found"):
        await cluster.read(VS, "shop", NAME)
    assert (await keep(policy(), MESH, cluster)).standing is Standing.DENIED


async def test_a_token_that_was_replaced_is_shown_from_the_next_call_on(
    api: KubeApi, tmp_path: Path
) -> None:
    token = tmp_path / "rotated"
    token.write_text("an-old-one")
    async with ClientSession() as session:
        cluster = ApiServer(session, api.url, token_file=str(token))
        assert (await keep(policy(), MESH, cluster)).standing is Standing.DENIED
        token.write_text(TOKEN)
        assert (await keep(policy(), MESH, cluster)).standing is Standing.APPLIED
        token.unlink()
        assert (await keep(policy(), MESH, cluster)).standing is Standing.HELD


async def test_a_digest_tells_of_a_change_that_left_no_owner(
    api: KubeApi, cluster: ApiServer
) -> None:
    await keep(policy(), MESH, cluster)
    more = routes(policy(60), MESH).virtual_service["spec"]["http"]
    api.edit(VS, NAME, MANAGER, http=copy.deepcopy(more))
    kept = await keep(policy(revision=11), MESH, cluster)
    assert kept.standing is Standing.TAKEN_BACK
    assert kept.drift == ("VirtualService yyc3-xy-api is not what revision 10 made it",)
    assert canary(api) == 5
    assert len(api.annotations(VS, NAME)[DIGEST]) == 64


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_others_do_the_mesh_gives_no_more_than_the_release(
    api: KubeApi, cluster: ApiServer, seed: int
) -> None:
    chance = random.Random(seed)
    for revision in range(1, 60):
        share = chance.choice([0, 1, 5, 20, 50, 100])
        kept = await keep(policy(share, revision), MESH, cluster)
        assert canary(api) <= share
        assert kept.share == canary(api) * 1_000
        theirs = policy(chance.choice([0, 3, 40, 100]), halted=chance.random() < 0.2)
        match chance.choice(["edit", "delete", "fail", "nothing"]):
            case "edit":
                spec = routes(theirs, MESH).virtual_service["spec"]
                api.edit(VS, NAME, "kubectl-edit", http=copy.deepcopy(spec["http"]))
            case "delete":
                api.delete(chance.choice([VS, DR]), NAME)
            case "fail":
                api.answers = [status(503, "not now")]
                assert not (await keep(policy(share, revision), MESH, cluster)).may_rise
                api.answers = []


def service(percentage: float, **changed: Any) -> Object:
    found = copy.deepcopy(routes(policy(percentage), MESH).virtual_service)
    found["spec"]["http"][-1].update(changed)
    return found


def test_less_is_only_what_is_surely_less() -> None:
    wanted = service(5)
    assert no_more(service(5), wanted)
    assert no_more(service(4.999), wanted)
    assert not no_more(service(5.001), wanted)
    # Nobody gets the canary at all: no tester either.
    nobody = routes(replace(policy(), release=None), MESH).virtual_service
    assert no_more(nobody, wanted)
    assert not no_more(wanted, nobody)
    assert not no_more(service(0, mirror={"host": "x"}), wanted)
    assert not no_more(service(0, match=[{"uri": {"prefix": "/x"}}]), wanted)
    elsewhere = {"destination": {"host": "x", "subset": "new"}, "weight": 1}
    assert not no_more(service(0, route=[elsewhere]), wanted)
    assert not no_more({**wanted, "spec": {}}, wanted)
    rule = routes(policy(), MESH).destination_rule
    assert not no_more(rule, rule)


def test_only_a_mesh_that_follows_lets_a_release_rise() -> None:
    may = {standing for standing in Standing if Kept(standing=standing).may_rise}
    assert may == {Standing.IN_STEP, Standing.APPLIED, Standing.TAKEN_BACK}
