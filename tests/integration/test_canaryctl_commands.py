"""Each group of commands against a running service: happy paths, refusals, races, JSON shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
from canary.decision.v1 import decision_pb2, decision_pb2_grpc
from canary.policy.v1 import policy_pb2
from canary_documents import to_document
from canary_engine import parse
from canary_engine.histogram import bucket_of
from decision_svc.app import Running
from support.canaryctl import Canaryctl, silent_service


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with silent_service() as running:
        yield running


NUMBERS = count(1)


@pytest.fixture
def ctl(service: Running) -> Canaryctl:
    return Canaryctl(service.admin_address, f"shop-{next(NUMBERS)}")


# Versions and releases


def test_versions_are_registered_listed_deprecated_and_removed(ctl: Canaryctl) -> None:
    ctl.ok("version register SHOP v1 --build-date 2026-01-01T01:00:00+01:00 --reason x")
    ctl.ok("version deprecate SHOP v1 --reason x")
    assert ctl.read("version list SHOP") == {
        "service_key": ctl.shop,
        "revision": 2,
        "versions": [
            {"version": "v1", "build_date": "2026-01-01T00:00:00Z", "status": "deprecated"}
        ],
    }
    ctl.ok("version remove SHOP v1 --reason x")
    assert ctl.ok("version list SHOP") == "versions: none\n"


def test_a_version_taken_by_another_build_is_refused(ctl: Canaryctl) -> None:
    ctl.ok("version register SHOP v1 --git-commit abc1234 --reason x")
    line = "version register SHOP v1 --git-commit def5678 --reason x"
    assert ctl.refused(line, 1)["code"] == "already-exists"


@pytest.mark.parametrize(
    "line",
    [
        "policy show nosuch",
        "status nosuch",
        "release exposure nosuch",
        "rule remove nosuch a --reason x",
        "version deprecate nosuch v1 --reason x",
    ],
)
def test_whoever_names_an_unknown_service_is_told_how_to_list_those_there_are(
    ctl: Canaryctl, line: str
) -> None:
    error = ctl.refused(line, 1)
    assert error["code"] == "not-found"
    assert error["next"] == "check the service key: canaryctl status lists those there are"


def test_a_consent_says_at_once_that_it_is_for_others(ctl: Canaryctl) -> None:
    told = ctl.with_release().ok("approve SHOP promote v2 --reason x")
    assert told.startswith("approved promote of v2 by anybody but you: a-")


def test_one_version_is_shown_whole(ctl: Canaryctl) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    build = f"--build-number 118 --git-commit {commit} --build-date 2026-01-01T00:00:00Z"
    where = "--host canary.shop --port 8080 --host-header shop"
    ctl.ok(f"version register SHOP v1 {build} {where} --reason x")
    shown = dict(line.split("  ", 1) for line in ctl.ok("version show SHOP v1").splitlines())
    shown = {name: value.strip() for name, value in shown.items()}
    assert (shown["version"], shown["status"]) == ("v1", "registered")
    assert "canary.shop:8080" in shown["backend"]
    assert {"118", commit, "2026-01-01T00:00:00Z"} <= set(shown.values())
    assert ctl.read("version show SHOP v1")["version"] == {
        "version": "v1",
        "build_number": "118",
        "git_commit": commit,
        "build_date": "2026-01-01T00:00:00Z",
        "backend": {"host": "canary.shop", "port": 8080, "host_header": "shop"},
    }
    error = ctl.refused("version show SHOP v9", 1)
    assert (error["code"], error["message"]) == (
        "not-found",
        "there is no version 'v9'; there is: v1",
    )


def test_registering_again_changes_nothing_and_says_so(ctl: Canaryctl) -> None:
    ctl.ok("version register SHOP v1 --git-commit abc1234 --reason x")
    line = "version register SHOP v1 --git-commit abc1234 --reason x"
    assert ctl.ok(line) == f"nothing changed ({ctl.shop}, revision 1)\n"
    assert ctl.read(line) == {"service_key": ctl.shop, "revision": 1, "nothing_changed": True}


def test_a_registered_version_becomes_the_first_stable_one_when_it_is_registered_so(
    ctl: Canaryctl,
) -> None:
    ctl.ok("version register SHOP v1 --reason x")
    told = ctl.ok("version register SHOP v1 --status stable --reason x")
    assert '+ versions[v1].status: "stable"' in told
    assert ctl.read("version list SHOP")["versions"] == [{"version": "v1", "status": "stable"}]


def test_a_status_that_registering_does_not_give_is_refused_with_the_way_to_it(
    ctl: Canaryctl,
) -> None:
    ctl.with_release().ok("version register SHOP v3 --reason x")
    told = ctl.refused("version register SHOP v3 --status stable --reason x", 1)["message"]
    assert "'v3' is registered already, and 'v1' is stable" in told
    assert f"canaryctl release start {ctl.shop} v3, then canaryctl release promote" in told
    line = "version register SHOP v2 --upstream new --status stable --reason x"
    told = ctl.refused(line, 1)["message"]
    assert f"a release makes it stable: canaryctl release promote {ctl.shop}" in told
    told = ctl.refused("version register SHOP v3 --status deprecated --reason x", 1)["message"]
    assert f"canaryctl version deprecate {ctl.shop} v3" in told
    assert [v.get("status") for v in ctl.read("version list SHOP")["versions"]] == [
        "stable", "canary", None,
    ]  # fmt: skip


def test_a_write_answers_the_new_revision(ctl: Canaryctl) -> None:
    line = "version register SHOP v1 --reason x --expected-revision 0"
    assert ctl.read(line) == {
        "service_key": ctl.shop,
        "revision": 1,
        "changes": [{"path": "versions[v1]", "after": {"version": "v1"}}],
    }


def test_a_release_is_started_steered_and_promoted(ctl: Canaryctl) -> None:
    ctl.with_release()
    assert "12.345 %" in ctl.ok("percentage SHOP 12.345% --reason x")
    shown = ctl.read("release show SHOP")
    assert (shown["revision"], shown["release"]["percentage"]) == (4, 12.345)
    assert shown["release"]["status"] == "in-progress"
    ctl.ok("release promote SHOP --reason x")
    assert ctl.read("release show SHOP")["release"]["status"] == "completed"
    statuses = {v["version"]: v["status"] for v in ctl.read("version list SHOP")["versions"]}
    assert statuses == {"v1": "deprecated", "v2": "stable"}


def test_a_release_is_rolled_back(ctl: Canaryctl) -> None:
    ctl.with_release().ok("release rollback SHOP --reason x")
    assert "rolled-back" in ctl.ok("release show SHOP")


def test_a_second_release_is_refused_while_one_is_in_progress(ctl: Canaryctl) -> None:
    error = ctl.with_release().refused("release start SHOP v2 --reason x", 1)
    assert error["code"] == "failed-precondition"
    assert f"canaryctl status {ctl.shop}" in error["next"]


def test_a_lost_race_changes_nothing_and_says_what_to_read(ctl: Canaryctl) -> None:
    ctl.with_release()
    error = ctl.refused("percentage SHOP 50 --reason x --expected-revision 2", 3)
    assert error["code"] == "aborted"
    assert f"canaryctl policy show {ctl.shop}" in error["next"]
    assert ctl.read("release show SHOP")["release"]["percentage"] == 5


# Rules and whitelist

RULES = """
rules:
  - {name: testers, source: header, key: x-canary-test, exact: true, variant: canary}
  - {name: office, source: ip, cidrs: [192.0.2.0/24], variant: stable}
"""


def test_rules_are_set_from_a_file_and_can_be_set_as_they_are_shown(
    ctl: Canaryctl, tmp_path: Path
) -> None:
    ctl.ok("rule set SHOP -f - --reason x", RULES)
    shown = ctl.read("rule list SHOP")
    assert [(r["name"], r.get("exact")) for r in shown["rules"]] == [
        ("testers", "true"),
        ("office", None),
    ]
    exported = tmp_path / "rules.json"
    exported.write_text(json.dumps(shown))
    ctl.ok("rule set SHOP -f - --reason x", "[]")
    assert ctl.ok("rule list SHOP") == "rules: none\n"
    ctl.ok(f"rule set SHOP -f {exported} --reason x")
    assert ctl.read("rule list SHOP")["rules"] == shown["rules"]


def test_rules_are_added_in_their_place_and_removed(ctl: Canaryctl) -> None:
    ctl.ok("rule set SHOP -f - --reason x", RULES)
    ctl.ok(
        "rule add SHOP first --source path --pattern ^/beta --variant canary"
        " --position 0 --reason x"
    )
    ctl.ok("rule remove SHOP office --reason x")
    assert [rule["name"] for rule in ctl.read("rule list SHOP")["rules"]] == ["first", "testers"]


def test_an_invalid_rule_is_refused_by_the_name_of_its_field(ctl: Canaryctl) -> None:
    line = "rule add SHOP bad --source header --key x --pattern ( --variant canary --reason x"
    error = ctl.refused(line, 2)
    assert error["code"] == "invalid-argument"
    assert "rules[0].pattern" in error["message"]


def test_a_rule_with_an_unknown_key_never_leaves(ctl: Canaryctl) -> None:
    error = ctl.refused("rule set SHOP -f - --reason x", 2, "- {name: a, exat: b}")
    assert error["message"] == "rules[0].exat: unknown field; did you mean exact?"


def test_a_rule_that_is_not_there_is_not_found(ctl: Canaryctl) -> None:
    assert ctl.with_release().refused("rule remove SHOP ghost --reason x", 1)["code"] == "not-found"


def test_the_whitelist_is_set_added_to_and_removed_from(ctl: Canaryctl) -> None:
    ctl.ok("whitelist set SHOP --ip 10.0.0.0/8 --user u1 --reason x")
    ctl.ok("whitelist add SHOP --user u2 --consumer c --reason x")
    ctl.ok("whitelist remove SHOP --user u1 --reason x")
    assert ctl.read("whitelist show SHOP")["whitelist"] == {
        "ips": ["10.0.0.0/8"],
        "users": ["u2"],
        "consumers": ["c"],
    }
    ctl.ok("whitelist set SHOP -f - --reason x", "{}")
    assert ctl.ok("whitelist show SHOP") == "whitelist: none\n"


def test_a_whitelist_entry_that_is_not_there_is_not_found(ctl: Canaryctl) -> None:
    ctl.with_release()
    assert "u9" in ctl.refused("whitelist remove SHOP --user u9 --reason x", 1)["message"]


# Segments and flags


def test_the_default_segments_can_be_put(ctl: Canaryctl) -> None:
    ctl.ok("segment put SHOP -f - --reason x --expected-revision 0", ctl.ok("segment defaults"))
    table = ctl.ok("segment list SHOP")
    assert "registered in the last 7 days" in table
    ctl.ok("segment remove SHOP new-users --reason x --expected-revision 4")
    names = [segment["name"] for segment in ctl.read("segment list SHOP")["segments"]]
    assert names == ["alpha-testers", "beta-testers", "premium-users"]


def test_members_are_added_in_chunks_with_progress_on_stderr(ctl: Canaryctl) -> None:
    ctl.ok("segment put SHOP pilots --eligible --listed --reason x --expected-revision 0")
    users = [f"u{number}" for number in range(20_001)]
    result = ctl(
        "segment add-members SHOP pilots - --reason x --expected-revision 1", "\n".join(users)
    )
    assert (result.exit_code, result.stdout) == (
        0,
        f"added 20,001 users to pilots ({ctl.shop}, revision 4)\n",
    )
    assert result.stderr.splitlines() == [
        "10,000 of 20,001 users",
        "20,000 of 20,001 users",
        "20,001 of 20,001 users",
    ]
    assert sorted(ctl.ok("segment members SHOP pilots").split()) == sorted(users)


def test_members_are_removed_and_listed_for_scripts(ctl: Canaryctl) -> None:
    ctl.ok("segment put SHOP pilots --eligible --listed --reason x")
    ctl.ok("segment add-members SHOP pilots a b c --reason x")
    ctl.ok("segment remove-members SHOP pilots b --reason x")
    shown = ctl.read("segment members SHOP pilots")
    assert (shown["segment"], sorted(shown["users"]), shown["total"]) == ("pilots", ["a", "c"], 2)


def test_a_chunk_that_is_refused_says_how_many_users_are_done(ctl: Canaryctl) -> None:
    ctl.ok("segment put SHOP pilots --eligible --listed --reason x")
    users = [f"u{number}" for number in range(10_000)] + ["x" * 500]
    error = ctl.refused("segment add-members SHOP pilots - --reason x", 2, "\n".join(users))
    assert "after 10,000 of 10,001 users, which are done" in error["message"]
    assert ctl.read("segment members SHOP pilots")["total"] == 10_000


def test_users_cannot_be_added_where_none_are_listed(ctl: Canaryctl) -> None:
    ctl.ok("segment put SHOP pilots --protected --tier premium --reason x")
    line = "segment add-members SHOP pilots a --reason x"
    assert "listed" in ctl.refused(line, 2)["message"]


def test_a_segment_is_described_by_options(ctl: Canaryctl) -> None:
    ctl.ok(
        "segment put SHOP new --eligible --percentage 0.5 --region eu --tag a --tag b"
        " --registered-last-days 30 --custom plan=gold --reason x"
    )
    assert ctl.read("segment list SHOP")["segments"] == [
        {
            "name": "new",
            "canary_eligible": True,
            "percentage": 0.5,
            "criteria": {
                "registered": {"last_days": 30},
                "regions": ["eu"],
                "tags": ["a", "b"],
                "custom": {"plan": "gold"},
            },
        }
    ]


def test_flags_are_put_listed_and_removed(ctl: Canaryctl) -> None:
    ctl.ok("flag put SHOP checkout --on --percentage 10 --user u1 --reason x")
    assert ctl.read("flag list SHOP")["flags"] == [
        {"name": "checkout", "enabled": True, "percentage": 10, "users": ["u1"]}
    ]
    ctl.ok("flag put SHOP -f - --reason x", "{name: checkout, enabled: false}")
    assert "no" in ctl.ok("flag list SHOP")
    ctl.ok("flag remove SHOP checkout --reason x")
    assert ctl.ok("flag list SHOP") == "flags: none\n"


def test_a_flag_for_an_unknown_segment_is_refused(ctl: Canaryctl) -> None:
    error = ctl.refused("flag put SHOP checkout --on --segment ghosts --reason x", 2)
    assert "flags[0].segments" in error["message"]


# How requests are read, and profiles


@pytest.mark.parametrize(
    ("noun", "document"),
    [
        (
            "bucketing",
            {
                "hash_on": [{"source": "header", "key": "x-user-id"}, {"source": "ip"}],
                "anonymous": "per-request",
                "cookie": "who",
            },
        ),
        (
            "identity",
            {
                "user_id_header": "x-uid",
                "attribute_headers": {"tier": "x-tier"},
                "flags_header": "x-flags",
            },
        ),
        (
            "compatibility",
            {
                "header": "x-api-version",
                "rules": [{"from": "v1", "to": "v2", "notes": "gone"}],
            },
        ),
    ],
)
def test_what_is_set_is_shown_and_can_be_set_again(
    ctl: Canaryctl, noun: str, document: dict[str, Any]
) -> None:
    ctl.ok(f"{noun} set SHOP -f - --reason x", json.dumps(document))
    shown = ctl.read(f"{noun} show SHOP")
    assert shown == {"service_key": ctl.shop, "revision": 1, noun: document}
    ctl.ok(f"{noun} set SHOP -f - --reason x", json.dumps(shown))
    assert ctl.read(f"{noun} show SHOP") == shown


def test_the_defaults_are_spelt_out(ctl: Canaryctl) -> None:
    ctl.with_release()
    assert "consumer, then the user id header (default)" in ctl.ok("bucketing show SHOP")
    assert "x-user-id (default)" in ctl.ok("identity show SHOP")
    assert ctl.ok("compatibility show SHOP") == (
        "compatibility by nothing: none\n\nAPI versions: none\n"
    )


def test_profiles_are_put_shown_and_removed(ctl: Canaryctl) -> None:
    ctl.ok("profile put SHOP --tier premium --tag a --custom plan=gold --reason x")
    assert ctl.read("profile get SHOP") == {
        "profile": {
            "user": ctl.shop,
            "tier": "premium",
            "tags": ["a"],
            "custom": {"plan": "gold"},
        }
    }
    ctl.ok("profile remove SHOP --reason x")
    error = ctl.refused("profile get SHOP", 1)
    assert error["next"].endswith(f"canaryctl profile put {ctl.shop}")


def test_a_profile_of_somebody_else_is_refused(ctl: Canaryctl) -> None:
    error = ctl.refused("profile put SHOP -f - --reason x", 2, "{user: other, tier: free}")
    assert "profile of other" in error["message"]


# Looking


def test_a_policy_is_shown_now_and_at_an_earlier_revision(ctl: Canaryctl) -> None:
    ctl.with_release()
    assert ctl.read("policy show SHOP")["policy"]["revision"] == 3
    assert "release" not in ctl.read("policy show SHOP --revision 2")["policy"]
    page = ctl.ok("policy show SHOP")
    assert page.startswith(f"{ctl.shop}, revision 3\n")
    assert "flags: none" in page


def test_a_policy_that_is_not_there_is_not_found(ctl: Canaryctl) -> None:
    assert ctl.refused("policy show SHOP", 1)["code"] == "not-found"
    assert ctl.refused("status SHOP", 1)["code"] == "not-found"


def test_the_history_says_who_what_and_why_newest_first(ctl: Canaryctl) -> None:
    ctl.with_release()
    changes = ctl.read("history SHOP --limit 2")["changes"]
    assert [(c["revision"], c["actor"], c["reason"]) for c in changes] == [
        (3, "kim", "x"),
        (2, "kim", "x"),
    ]
    assert [c["revision"] for c in ctl.read("history SHOP --before 2")["changes"]] == [1]
    assert "start release of v2 at 5 %" in ctl.ok("history SHOP")


def test_the_status_shows_one_service_or_all(ctl: Canaryctl) -> None:
    ctl.with_release()
    (shown,) = ctl.read("status SHOP")["services"]
    assert (shown["service_key"], shown["stable_version"], shown["revision"]) == (ctl.shop, "v1", 3)
    assert shown["release"]["percentage"] == 5
    assert [sorted(policy) for policy in shown["policies"]] == [["decides_by", "why"]]
    assert ctl.shop in {s["service_key"] for s in ctl.read("status")["services"]}
    assert "in-progress" in ctl.ok("status SHOP")


def test_the_status_tells_what_stands_in_the_way_and_what_clients_are_told(
    ctl: Canaryctl,
) -> None:
    ctl.with_release()
    ctl.ok("guards set SHOP --above 25 --reason x")
    ctl.ok("approve SHOP raise v2 --percentage 50 --reason x --actor ann")
    line = "freeze add SHOP F --start 2020-01-01T00:00 --end 2099-01-01T00:00 --time-zone UTC"
    ctl.ok(f"{line} --reason x")
    old = "api_versions: [{version: v1, deprecated: true, sunset_date: 2030-01-01T00:00:00Z}]"
    ctl.ok("compatibility set SHOP -f - --reason x", old)
    page = ctl.ok("status SHOP")
    assert "frozen by F until 2099-01-01T00:00:00 UTC" in page
    assert "a second person is needed for: raise above 25 %" in page
    assert "by ann to raise v2 up to 50 %: unused" in page
    assert "API version v1 is deprecated, sunset 2030-01-01T00:00:00Z" in page
    (shown,) = ctl.read("status SHOP")["services"]
    assert shown["needs_second_person"] == {"above": 25}
    assert [freeze["name"] for freeze in shown["freezes_in_force"]] == ["F"]
    assert [approval["by"] for approval in shown["approvals"]] == ["ann"]


def declared(ctl: Canaryctl, percentage: float, upstream: str = "new") -> decision_pb2.Baseline:
    """A baseline that gives a share of users the canary, and says where it is."""
    policy = policy_pb2.Policy(
        service_key=ctl.shop,
        versions=[
            policy_pb2.Version(version="stable", status=policy_pb2.VERSION_STATUS_STABLE),
            policy_pb2.Version(
                version="canary",
                status=policy_pb2.VERSION_STATUS_CANARY,
                backend=policy_pb2.Backend(upstream=upstream),
            ),
        ],
        release=policy_pb2.Release(
            id="declared",
            version="canary",
            status=policy_pb2.RELEASE_STATUS_IN_PROGRESS,
            percentage=percentage,
            salt=ctl.shop,
        ),
    )
    hash_ = parse.content_hash(parse.document(parse.policy(to_document(policy))))
    return decision_pb2.Baseline(hash=hash_, policy=policy)


@contextmanager
def in_contact(
    service: Running, ctl: Canaryctl, **baselines: decision_pb2.Baseline
) -> Iterator[None]:
    """Gateways by name, each with its baseline, for as long as this is open."""
    with ExitStack() as open_, grpc.insecure_channel(service.decision_address) as channel:
        for gateway, baseline in baselines.items():
            watch = decision_pb2.WatchPoliciesRequest(
                service_keys=[ctl.shop], gateway=gateway, baselines=[baseline]
            )
            stub = decision_pb2_grpc.DecisionServiceStub(channel)
            watching = stub.WatchPolicies(watch, timeout=30)
            open_.callback(watching.cancel)
            next(iter(watching))
        yield


def test_a_baseline_is_shown_while_its_gateway_is_in_contact(
    ctl: Canaryctl, service: Running
) -> None:
    five = declared(ctl, 5)
    with in_contact(service, ctl, kong=five):
        (found,) = ctl.read("baselines SHOP")["baselines"]
        assert (found["gateways"], found["baseline"]["hash"]) == (["kong"], five.hash)
        (effective,) = ctl.read("policy effective SHOP")["policies"]
        assert (effective["is_baseline"], effective["gateways"]) == (True, ["kong"])
        table = ctl.ok("status SHOP")
        assert "kong" in table
        assert effective["why"] in table
        assert "in force at kong: the gateway's baseline" in table
        assert "declared" in ctl.ok(f"explain SHOP --baseline {five.hash} --header x-user-id:u")
        ctl.with_release().ok(
            "rule add SHOP r --source path --exact /x --variant canary --reason x"
        )
        table = ctl.ok("status SHOP")
        assert "in force at kong: the stored policy" in table
        assert "not in force at kong: the gateway's baseline: 5 %" in table


def test_explain_answers_as_the_one_gateway_in_contact_sees_it(
    ctl: Canaryctl, service: Running
) -> None:
    all_ = declared(ctl, 100)
    with in_contact(service, ctl, kong=all_):
        answer = ctl.read("explain SHOP --header x-user-id:u")
        assert answer["decision"]["variant"] == "canary"
        assert (answer["baseline_hash"], answer["gateways"]) == (all_.hash, ["kong"])
        page = ctl.ok("explain SHOP --header x-user-id:u")
        assert "so the gateway's declared baseline rules" in page
        assert page.splitlines()[-1] == f"seen by: kong, with baseline {all_.hash}"


def test_explain_tells_of_every_baseline_in_contact_and_how_to_choose(
    ctl: Canaryctl, service: Running
) -> None:
    nobody, everybody = declared(ctl, 0), declared(ctl, 100)
    with in_contact(service, ctl, kong=nobody, other=everybody):
        answer = ctl.read("explain SHOP --header x-user-id:u")
        (other,) = answer["others"]
        found = {one["gateways"][0]: one["decision"]["variant"] for one in (answer, other)}
        assert found == {"kong": "stable", "other": "canary"}
        last = ctl.ok("explain SHOP --header x-user-id:u").splitlines()[-1]
        assert last.startswith(f"but for {other['gateways'][0]}, with baseline")
        assert last.endswith(f"give --baseline {other['baseline_hash']}")
        chosen = ctl.read(f"explain SHOP --baseline {everybody.hash} --header x-user-id:u")
        assert chosen["decision"]["variant"] == "canary"
        ctl.with_release()
        last = ctl.ok("explain SHOP --header x-user-id:u").splitlines()[-1]
        assert last.startswith("the same for ")


def test_explain_says_that_no_baseline_is_known_and_nothing_of_what_gateways_declare(
    ctl: Canaryctl,
) -> None:
    ctl.ok("version register SHOP v1 --status stable --reason x")
    page = ctl.ok("explain SHOP --header x-user-id:u")
    assert "in force: no release was started, and without a gateway's baseline everybody" in page
    assert "none with one is in contact with this decision service" in page.splitlines()[-1]


@pytest.mark.parametrize("end", ["rollback", "abandon", "promote"])
def test_the_end_of_a_release_warns_of_gateways_that_give_a_canary_by_their_own_files(
    ctl: Canaryctl, service: Running, end: str
) -> None:
    five, zero = declared(ctl, 5, upstream="next"), declared(ctl, 0)
    with in_contact(service, ctl, kong=five, other=zero):
        written, warning = ctl.with_release().ok(f"release {end} SHOP --reason x").split("\n\n")
    assert written.splitlines()[0].endswith("revision 4)")
    assert warning.rstrip("\n") == (
        "warning: now that the release is over, gateways give a canary by their own files: kong to "
        "next (5 %). Set percentage to 0 there, take the whitelists out, and reload them"
    )


def test_scripts_are_warned_too_and_before_a_rollback_that_is_due(
    ctl: Canaryctl, service: Running
) -> None:
    with in_contact(service, ctl, kong=declared(ctl, 5)):
        answer = ctl.with_release().read("release rollback SHOP --delay 10m --reason x")
    assert answer["revision"] == 4
    assert answer["warning"].startswith("warning: once the release is over, gateways give a canary")


def test_nobody_is_warned_of_a_file_that_gives_the_stable_version_or_nobody(
    ctl: Canaryctl, service: Running
) -> None:
    with in_contact(service, ctl, kong=declared(ctl, 5, upstream="new"), other=declared(ctl, 0)):
        answer = ctl.with_release().read("release promote SHOP --reason x")
    assert answer["revision"] == 4
    assert "warning" not in answer


def test_a_baseline_that_nobody_declares_is_not_found(ctl: Canaryctl) -> None:
    assert ctl.refused("explain SHOP --baseline abc", 1)["code"] == "not-found"


# Explaining


def test_explain_says_in_one_line_where_a_request_goes_and_why(ctl: Canaryctl) -> None:
    ctl.with_release().ok("percentage SHOP 100 --reason x")
    release = ctl.read("release show SHOP")["release"]["id"]
    answer = ctl.read("explain SHOP --header X-User-Id:u7")
    bucket = answer["decision"]["bucket"]
    line, _, table = ctl.ok("explain SHOP --header X-User-Id:u7").partition("\n")
    assert line.startswith(f"canary (v2) because percentage: bucket {bucket} is below 100 %")
    assert line.endswith(f", release {release}, revision 4")
    marked = [row for row in table.splitlines() if row.startswith("=>")]
    assert [row.split()[1] for row in marked] == ["percentage"]


def test_explain_lists_every_stage(ctl: Canaryctl) -> None:
    answer = ctl.with_release().read("explain SHOP")
    assert [stage["reason"] for stage in answer["stages"]] == [
        "no-release",
        "override",
        "rule",
        "compatibility",
        "whitelist",
        "segment",
        "flag",
        "percentage",
        "default",
    ]
    assert [stage["reason"] for stage in answer["stages"] if stage.get("decided")] == ["default"]


@pytest.mark.parametrize(
    ("facts", "reason", "matched"),
    [
        ("--header x-canary-test:true", "rule", "testers"),
        ("--cookie seen=yes", "rule", "cookie"),
        ("--path /beta/x", "rule", "path"),
        ("--ip 10.1.2.3", "whitelist", "10.0.0.0/8"),
        ("--consumer partner", "whitelist", ""),
        ("--flag checkout", "flag", "checkout"),
    ],
)
def test_explain_takes_every_fact_of_a_request(
    ctl: Canaryctl, facts: str, reason: str, matched: str
) -> None:
    rules = """
    - {name: testers, source: header, key: x-canary-test, exact: true, variant: canary}
    - {name: cookie, source: cookie, key: seen, exact: yes, variant: canary}
    - {name: path, source: path, pattern: ^/beta, variant: canary}
    """
    ctl.with_release().ok("rule set SHOP -f - --reason x", rules)
    ctl.ok("whitelist set SHOP --ip 10.0.0.0/8 --consumer partner --reason x")
    ctl.ok("flag put SHOP checkout --on --percentage 100 --reason x")
    decision = ctl.read(f"explain SHOP --header x-user-id:u1 {facts}")["decision"]
    assert (decision["variant"], decision["reason"]) == ("canary", reason)
    assert matched in decision["matched"]


def test_explain_answers_for_another_time(ctl: Canaryctl) -> None:
    ctl.with_release().ok("segment put SHOP new --eligible --registered-last-days 7 --reason x")
    user = f"u-{ctl.shop}"
    ctl.ok(f"profile put {user} --registered-at 2026-01-01T00:00:00Z --reason x")
    explain = f"explain SHOP --header x-user-id:{user} --at"
    assert ctl.read(f"{explain} 2026-01-03T00:00:00Z")["decision"]["reason"] == "segment"
    assert ctl.read(f"{explain} 2026-02-03T00:00:00Z")["decision"]["reason"] != "segment"


def test_outcomes_are_shown_by_version_with_errors_and_latencies(
    ctl: Canaryctl, service: Running
) -> None:
    ctl.with_release()
    assert "none" in ctl.ok("outcomes SHOP")
    bucket = bucket_of(20_000)
    series = decision_pb2.OutcomeSeries(
        service_key=ctl.shop,
        version="v2",
        variant=policy_pb2.VARIANT_CANARY,
        release_id="r1",
        statuses={200: 1_197, 503: 3},
        request=decision_pb2.LatencyHistogram(buckets=[bucket], counts=[1_200], sum_us=24_000_000),
        lost=2,
    )
    report = decision_pb2.ReportOutcomesRequest(batch_id=ctl.shop, series=[series])
    with grpc.insecure_channel(service.decision_address) as channel:
        decision_pb2_grpc.DecisionServiceStub(channel).ReportOutcomes(report, timeout=30)
    (row,) = [line for line in ctl.ok("outcomes SHOP").splitlines() if line.startswith("v2")]
    assert row.split() == [
        *("v2", "canary", "r1", "1,200", "0.25", "%"),
        *("20", "ms", "20", "ms", "20", "ms", "2"),
    ]
    (found,) = ctl.read("outcomes SHOP --window 900")["outcomes"]
    assert (found["version"], found["errors"], found["lost"]) == ("v2", 3, 2)
    assert abs(found["request"]["p95_ms"] - 20) <= 0.02 * 20


def test_outcomes_of_a_service_that_nobody_declares_are_not_found(ctl: Canaryctl) -> None:
    assert ctl.refused("outcomes nobody-s", 1)["code"] == "not-found"


# Metrics


def report_outcomes(ctl: Canaryctl, service: Running, *cohorts: tuple[str, dict[int, int]]) -> None:
    """Tell the service of outcomes of the release, by cohort and status, each of 20 ms."""
    release_id = ctl.read("release show SHOP")["release"]["id"]
    series = []
    for cohort, statuses in cohorts:
        count = sum(statuses.values())
        times = decision_pb2.LatencyHistogram(
            buckets=[bucket_of(20_000)], counts=[count], sum_us=20_000 * count
        )
        is_control = cohort == "CONTROL"
        one = decision_pb2.OutcomeSeries(
            service_key=ctl.shop,
            version="v1" if is_control else "v2",
            variant=policy_pb2.VARIANT_STABLE if is_control else policy_pb2.VARIANT_CANARY,
            release_id=release_id,
            cohort=policy_pb2.Cohort.Value(f"COHORT_{cohort}"),
            statuses=statuses,
            request=times,
        )
        series.append(one)
    report = decision_pb2.ReportOutcomesRequest(batch_id=ctl.shop, series=series)
    with grpc.insecure_channel(service.decision_address) as channel:
        decision_pb2_grpc.DecisionServiceStub(channel).ReportOutcomes(report, timeout=30)


def test_outcomes_say_how_many_are_compared(ctl: Canaryctl, service: Running) -> None:
    ctl.with_release()
    report_outcomes(ctl, service, ("DRAWN", {200: 8}), ("CHOSEN", {200: 3, 500: 1}))
    assert "drawn 8, chosen 4" in ctl.ok("outcomes SHOP")
    (found,) = ctl.read("outcomes SHOP")["outcomes"]
    assert found["requests"] == 12
    assert found["cohorts"] == [
        {"cohort": "drawn", "requests": 8},
        {"cohort": "chosen", "requests": 4, "errors": 1},
    ]


def test_metrics_stand_beside_each_other_with_their_differences(
    ctl: Canaryctl, service: Running
) -> None:
    ctl.with_release()
    cohorts = ("DRAWN", {200: 98, 500: 2}), ("CONTROL", {200: 398, 404: 1, 502: 1})
    report_outcomes(ctl, service, *cohorts, ("CHOSEN", {200: 7}))
    for version, value in (("v1", 4.5), ("v2", 3.6)):
        line = f"metrics report SHOP --version {version} --metric satisfaction --value {value}"
        assert ctl.ok(line) == f"reported satisfaction of {version}\n"
    found = ctl.read("metrics compare SHOP --window 10m")
    assert found["versions"] == {"canary": "v2", "control": "v1", "chosen": "v2"}
    assert (found["window_s"], found["service_key"]) == (600, ctl.shop)
    by_name = {line["metric"]: line for line in found["metrics"]}
    assert by_name["error-rate"] == {
        **{"metric": "error-rate", "unit": "%", "canary": 2, "control": 0.25, "chosen": 0},
        **{"difference": 1.75, "difference_percent": 700},
    }
    assert by_name["satisfaction"] == {
        **{"metric": "satisfaction", "canary": 3.6, "control": 4.5},
        **{"difference": -0.9, "difference_percent": -20},
    }
    assert by_name["requests"]["chosen"] == 7
    assert by_name["answers 404"] == {"metric": "answers 404", "control": 1}
    shown = ctl.ok("metrics compare SHOP --window 10m")
    assert f"release {found['release_id']}, last 600 s: canary v2, control v1" in shown
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines()[3:]}
    assert rows["error-rate"] == ["2", "%", "0.25", "%", "+1.75", "%", "(+700.0", "%)", "0", "%"]
    assert rows["satisfaction"] == ["3.6", "4.5", "-0.9", "(-20.0", "%)", "-"]


def test_a_canary_that_is_compared_with_nobody_is_told_so(ctl: Canaryctl, service: Running) -> None:
    ctl.with_release()
    report_outcomes(ctl, service, ("DRAWN", {200: 98, 500: 2}))
    shown = ctl.ok("metrics compare SHOP")
    assert "No request of control was told of: a release without a plan" in shown


def test_metrics_of_a_release_of_which_nothing_is_known_are_none(ctl: Canaryctl) -> None:
    ctl.with_release()
    assert "none" in ctl.ok("metrics compare SHOP")
    assert ctl.refused("metrics compare SHOP --window 2h", 2)["code"] == "invalid-argument"
    assert ctl.refused("metrics compare nobody-s", 1)["code"] == "not-found"


def test_a_report_counts_once_under_its_id_and_all_that_is_wrong_with_it_is_told(
    ctl: Canaryctl,
) -> None:
    ctl.with_release()
    line = "metrics report SHOP --version v2 --metric revenue --value 9.5 --report-id once"
    assert ctl.read(line) == {"service_key": ctl.shop, "accepted": 1}
    assert ctl.ok(line) == "it was reported before\n"
    (found,) = ctl.read("metrics compare SHOP")["metrics"]
    assert found == {"metric": "revenue", "canary": 9.5}
    bad = "metrics report SHOP --version v9 --metric error-rate --value -1 --name x"
    error = ctl.refused(bad, 2)["message"]
    for words in (
        "metric: error-rate is what gateways tell by themselves",
        "name: a custom metric and the usage of a feature need one",
        "value: error-rate is never below 0",
        "version: 'v9' is not registered",
    ):
        assert f"metrics[0].{words}" in error
