"""Files: applied whole or not at all, again without effect, and never over somebody's change."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from canary_documents import to_document
from canaryctl.app import cli
from click.testing import CliRunner, Result
from decision_svc.app import Running
from support.admin import Admin, admin_of
from support.redis_server import running_redis
from support.service import serve_in_thread

EXAMPLE = Path(__file__).parents[2] / "examples" / "release-v1.3.0.yaml"
NUMBERS = count(1)
VERSIONS = [
    {"version": "v1", "status": "stable", "backend": {"upstream": "old"}},
    {"version": "v2", "backend": {"upstream": "new"}},
]
RULE = {"name": "testers", "source": "header", "key": "x-t", "exact": "yes", "variant": "canary"}
OTHER = {**RULE, "name": "others", "key": "x-o"}
BETA = {"name": "beta", "canary_eligible": True, "listed": True}


@pytest.fixture(scope="module", params=["memory", "redis"])
def service(request: pytest.FixtureRequest) -> Iterator[Running]:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))
    if request.param == "memory":
        with serve_in_thread() as running:
            yield running
    else:
        with (
            running_redis() as redis,
            serve_in_thread(redis_url=redis.url, store_deadline_ms=10_000) as running,
        ):
            yield running
    structlog.reset_defaults()


class Files:
    """canaryctl with files about one service key, in a folder of their own."""

    def __init__(self, address: str, folder: Path, admin: Admin) -> None:
        self._address, self._folder, self.admin = address, folder, admin
        self.shop = admin.service_key

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(cli, ["--address", self._address, "--actor", "kim", *words])

    def write(self, *documents: dict[str, Any], name: str = "shop.yaml") -> str:
        path = self._folder / name
        named = [{"service_key": self.shop, **document} for document in documents]
        path.write_text(yaml.safe_dump_all(named, sort_keys=False))
        return str(path)

    def apply(self, document: dict[str, Any], *options: str) -> Any:
        """Apply; the answer for the one document."""
        path = self.write(document)
        result = self.run("apply", "-f", path, "--reason", "x", "--output", "json", *options)
        assert (result.exit_code, result.stderr) == (0, "")
        (told,) = json.loads(result.stdout)["documents"]
        return told

    def refused(self, document: dict[str, Any], exit_code: int, *options: str) -> str:
        path = self.write(document)
        before = self.policy()
        result = self.run("apply", "-f", path, "--reason", "x", "--output", "json", *options)
        assert (result.exit_code, result.stdout) == (exit_code, ""), result.output
        assert self.policy() == before, "a refusal changes nothing"
        message: str = json.loads(result.stderr)["error"]["message"]
        return message

    def policy(self) -> dict[str, Any]:
        if self.shop not in {s.service_key for s in self.admin("ListServices").services}:
            return {}
        return to_document(self.admin("GetPolicy", service_key=self.shop).policy)


@pytest.fixture
def files(service: Running, tmp_path: Path) -> Iterator[Files]:
    with admin_of(service.admin_address, f"shop-{next(NUMBERS)}") as admin:
        yield Files(service.admin_address, tmp_path, admin)


def paths(told: Any) -> list[str]:
    return [change["path"] for change in told["changes"]]


# Applying


def test_the_example_release_is_applied_once_and_changes_nothing_again(
    service: Running, tmp_path: Path
) -> None:
    with admin_of(service.admin_address, "yyc3-xy-api-service") as admin:
        files = Files(service.admin_address, tmp_path, admin)
        line = ("apply", "-f", str(EXAMPLE), "--reason", "x", "--output", "json")
        (first,) = json.loads(files.run(*line).stdout)["documents"]
        assert first["revision"] == 1
        (second,) = json.loads(files.run(*line).stdout)["documents"]
        assert (second["revision"], second["changes"]) == (1, [])
        found = files.policy()
        statuses = {v["version"]: v["status"] for v in found["versions"]}
        assert statuses == {"v1.2.3": "stable", "v1.3.0": "canary"}
        assert (found["release"]["percentage"], found["release"]["status"]) == (5, "in-progress")
        assert [s["weight"] for s in found["plan"]["steps"]] == [5, 10, 20, 30, 40, 50]
        assert files.run("plan-lint", "--strict", str(EXAMPLE)).exit_code == 0


def test_one_revision_holds_all_that_a_file_says(files: Files) -> None:
    told = files.apply(
        {"versions": VERSIONS, "release": {"version": "v2", "percentage": 5}, "rules": [RULE]}
    )
    assert told["revision"] == 1
    assert "release.percentage" in paths(told)
    assert "rules[testers]" in paths(told)


def test_a_file_without_effect_makes_no_revision(files: Files) -> None:
    document = {"versions": VERSIONS, "rules": [RULE]}
    files.apply(document)
    told = files.apply(document)
    assert (told["revision"], told["changes"]) == (1, [])
    result = files.run("apply", "-f", files.write(document), "--reason", "x")
    assert result.stdout == f"{files.shop}, revision 1: nothing to change\n"


def test_only_what_the_file_has_is_touched(files: Files) -> None:
    files.apply({"versions": VERSIONS, "rules": [RULE], "segments": [BETA]})
    assert paths(files.apply({"whitelist": {"users": ["u-1"]}})) == ["whitelist.users[u-1]"]
    assert [rule["name"] for rule in files.policy()["rules"]] == ["testers"]


def test_named_things_are_merged_in_the_files_order(files: Files) -> None:
    last = {**RULE, "name": "last", "key": "x-l"}
    files.apply({"rules": [OTHER, RULE]})
    told = files.apply({"rules": [{**RULE, "exact": "no"}, last]})
    assert paths(told) == ["rules[testers].exact", "rules[last]"]
    assert [rule["name"] for rule in files.policy()["rules"]] == ["others", "testers", "last"]
    files.apply({"rules": [last, OTHER]})
    assert [rule["name"] for rule in files.policy()["rules"]] == ["last", "testers", "others"]


def test_pruning_leaves_what_the_files_lists_say(files: Files) -> None:
    files.apply({"versions": VERSIONS, "rules": [RULE, OTHER], "segments": [BETA]})
    files.admin("AddMembers", segment="beta", users=["u-1"])
    assert paths(files.apply({"rules": [OTHER], "segments": []}, "--prune")) == [
        "rules[testers]",
        "segments[beta]",
    ]
    files.apply({"segments": [BETA]})
    members = files.admin("ListMembers", service_key=files.shop, segment="beta")
    assert list(members.users) == [], "the members went with their segment"


def test_what_is_stable_or_being_released_is_not_pruned(files: Files) -> None:
    files.apply({"versions": VERSIONS})
    assert "'v1', which is stable" in files.refused({"versions": VERSIONS[1:]}, 1, "--prune")


def test_the_life_of_a_version_is_not_taken_from_a_file(files: Files) -> None:
    files.apply({"versions": VERSIONS})
    wished = [{"version": "v1"}, {"version": "v2", "status": "stable"}]
    assert files.apply({"versions": wished})["changes"] == []
    files.apply({"versions": [{"version": "v3", "status": "deprecated"}]})
    statuses = {v["version"]: v.get("status") for v in files.policy()["versions"]}
    assert statuses == {"v1": "stable", "v2": None, "v3": None}


def test_a_version_keeps_its_build_and_may_move(files: Files) -> None:
    files.apply({"versions": [{"version": "v1", "git_commit": "abc"}]})
    files.apply({"versions": [{"version": "v1", "backend": {"upstream": "elsewhere"}}]})
    found = files.policy()["versions"]
    assert found == [{"version": "v1", "git_commit": "abc", "backend": {"upstream": "elsewhere"}}]
    message = files.refused({"versions": [{"version": "v1", "git_commit": "def"}]}, 2)
    assert message.startswith("versions[v1].git_commit: it is registered with 'abc'")


# Releases


def test_a_release_is_started_raised_lowered_and_left_alone(files: Files) -> None:
    files.apply({"versions": VERSIONS, "release": {"version": "v2", "percentage": 5}})
    id_ = files.policy()["release"]["id"]
    for share in (25, 10, 0):
        told = files.apply({"release": {"version": "v2", "percentage": share}})
        assert paths(told) == ["release.percentage"]
    assert files.apply({"release": {"version": "v2"}})["changes"] == []
    assert files.policy()["release"]["id"] == id_


def test_a_promoted_release_is_not_started_again_by_its_file(files: Files) -> None:
    document = {"versions": VERSIONS, "release": {"version": "v2", "percentage": 5}}
    files.apply(document)
    files.admin("MoveRelease", move="promote")
    assert files.apply(document)["changes"] == []


def test_a_rolled_back_release_is_not_started_again_by_its_file(files: Files) -> None:
    document = {"versions": VERSIONS, "release": {"version": "v2", "percentage": 5}}
    files.apply(document)
    files.admin("MoveRelease", move="roll-back")
    assert "was rolled back" in files.refused(document, 1)
    assert "was rolled back" in files.refused(document, 1, "--dry-run")


def test_the_guards_are_asked_of_files_too(files: Files) -> None:
    approvals = {"approvals": {"above": 20}}
    files.apply(
        {"versions": VERSIONS, "release": {"version": "v2", "percentage": 5}, "guards": approvals}
    )
    wished = {"release": {"version": "v2", "percentage": 50}, "rules": [RULE]}
    assert "needs the consent" in files.refused(wished, 1)
    assert "needs the consent" in files.refused(wished, 1, "--dry-run")
    assert paths(files.apply({"release": {"version": "v2", "percentage": 20}}))


def test_another_version_waits_for_the_end_of_the_release(files: Files) -> None:
    third = {"version": "v3"}
    files.apply({"versions": [*VERSIONS, third], "release": {"version": "v2", "percentage": 5}})
    assert "in-progress" in files.refused({"release": {"version": "v3", "percentage": 5}}, 1)


def test_how_a_release_draws_does_not_change_in_its_life(files: Files) -> None:
    files.apply({"versions": VERSIONS, "release": {"version": "v2", "percentage": 5}})
    message = files.refused({"release": {"version": "v2", "strategy": "percentage"}}, 1)
    assert message.startswith("release.strategy: ")


# Refusals


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (
            {"rules": [RULE, {**OTHER, "variant": "stable", "exact": ""}]},
            "rules[1]: give exactly one",
        ),
        ({"segments": [{"name": "s"}]}, "segments[0].criteria: say who is in it"),
        ({"release": {"percentage": 5}}, "release.version: give a name"),
        (
            {"release": {"version": "v2", "percentage": 101}},
            "release.percentage: give a percentage",
        ),
        ({"plan": {"steps": [{"weight": 0}]}}, "plan.steps[0].weight: give a weight above 0 %"),
        ({"approvals": [{"id": "a"}]}, "approvals: a person gives them"),
        ({"flags": [{"name": "f", "segments": ["nobody"]}]}, "there is no segment 'nobody'"),
    ],
)
def test_a_wrong_file_is_refused_whole_with_a_path(
    files: Files, document: dict[str, Any], complaint: str
) -> None:
    files.apply({"versions": VERSIONS})
    assert complaint in files.refused({"whitelist": {"users": ["u"]}, **document}, 2)


def test_every_mistake_is_told_at_once(files: Files) -> None:
    message = files.refused({"rules": [{"name": "r"}], "segments": [{"name": "s"}]}, 2)
    assert "rules[0].source" in message
    assert "segments[0].criteria" in message


def test_a_file_that_does_not_fit_is_not_sent(files: Files) -> None:
    path = files.write({"rulez": []}, {"rules": 5}, {"service_key": ""})
    result = files.run("apply", "-f", path, "--reason", "x")
    assert result.exit_code == 2
    assert f"{path} (document 1): rulez: unknown field; did you mean rules?" in result.stderr
    assert f"{path} (document 2): rules: give a list, not 5" in result.stderr
    assert f"{path} (document 3): service_key: say which service" in result.stderr


# Revisions


def test_an_exported_file_changes_nothing(files: Files) -> None:
    files.apply({"versions": VERSIONS, "release": {"version": "v2", "percentage": 5}})
    files.apply(
        {
            "rules": [{**RULE, "exact": "true"}],
            "segments": [{**BETA, "percentage": 0.125}],
            "flags": [{"name": "f", "enabled": True, "segments": ["beta"]}],
            "whitelist": {"ips": ["10.0.0.0/8"], "users": ["007"]},
            "compatibility": {
                "header": "x-v",
                "rules": [{"from": "1.10", "to": "v2", "notes": "no"}],
            },
            "bucketing": {"anonymous": "stable"},
            "identity": {"flags_header": "x-flags"},
            "overrides": {"header": "x-force"},
            "guards": {"approvals": {"promote": True}},
            "plan": {"steps": [{"weight": 5, "hold": "90m"}], "promote": False},
        }
    )
    exported = files.run("export", files.shop)
    assert exported.exit_code == 0
    document = yaml.safe_load(exported.stdout)
    assert document["revision"] == 2
    assert document["release"] == {"version": "v2", "percentage": 5}
    for options in ((), ("--prune",)):
        told = files.apply(document, *options)
        assert (told["revision"], told["changes"]) == (2, [])
    assert json.loads(files.run("export", files.shop, "--output", "json").stdout) == document


def test_a_stale_file_is_refused_and_told_what_changed(files: Files) -> None:
    files.apply({"versions": VERSIONS, "rules": [RULE]})
    exported = yaml.safe_load(files.run("export", files.shop).stdout)
    files.apply({"rules": [OTHER]})
    message = files.refused({**exported, "whitelist": {"users": ["u"]}}, 3)
    assert "is at revision 2, not 1" in message
    assert "+ rules[others]" in message
    told = files.apply({**exported, "whitelist": {"users": ["u"]}}, "--any-revision")
    assert told["revision"] == 3


def test_a_file_that_was_applied_may_be_applied_again_with_its_revision(files: Files) -> None:
    files.apply({"versions": VERSIONS})
    document = {**yaml.safe_load(files.run("export", files.shop).stdout), "rules": [RULE]}
    assert files.apply(document)["revision"] == 2
    assert files.apply(document)["changes"] == []


def test_an_expected_revision_is_kept_to(files: Files) -> None:
    files.apply({"versions": VERSIONS}, "--expected-revision", "0")
    files.refused({"rules": [RULE]}, 3, "--expected-revision", "0")
    files.refused({"rules": [RULE]}, 3, "--expected-revision", "0", "--dry-run")
    assert files.apply({"rules": [RULE]}, "--expected-revision", "1")["revision"] == 2


# Looking


def test_a_diff_says_what_would_change_and_changes_nothing(files: Files) -> None:
    files.apply({"versions": VERSIONS, "segments": [{**BETA, "percentage": 10}]})
    path = files.write({"revision": 99, "segments": [{**BETA, "percentage": 20}]})
    result = files.run("diff", "-f", path, "--exit-code")
    assert (result.exit_code, result.stdout) == (
        1,
        f"{files.shop}, revision 1: 1 change to make\n~ segments[beta].percentage: 10 -> 20\n",
    )
    assert files.policy()["revision"] == 1
    same = files.write({"segments": [BETA | {"percentage": 10}]})
    assert files.run("diff", "-f", same, "--exit-code").exit_code == 0


def test_a_dry_run_makes_no_revision(files: Files) -> None:
    told = files.apply({"versions": VERSIONS}, "--dry-run")
    assert (told["revision"], paths(told)) == (0, ["versions[v1]", "versions[v2]"])
    assert files.policy() == {}


# Many


def test_each_document_of_a_folder_is_applied_and_told_of(files: Files, tmp_path: Path) -> None:
    files.write({"versions": VERSIONS}, {"rules": [RULE]}, name="a.yaml")
    files.write({"release": {"version": "nope"}}, name="b.yml")
    files.write({"service_key": f"{files.shop}-too", "rules": [RULE]}, name="c.json")
    (tmp_path / "notes.txt").write_text("not read")
    result = files.run("apply", "-f", str(tmp_path), "--reason", "x", "--output", "json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)["documents"]
    assert [document.get("revision") for document in told] == [1, 2, None, 1]
    assert told[0]["file"].endswith("a.yaml (document 1)")
    assert "'nope' is not registered" in told[2]["error"]["message"]
    assert "b.yml" in result.stderr


def test_a_name_in_chinese_is_a_name(files: Files) -> None:
    told = files.apply({"rules": [{**RULE, "name": "测试用户"}]})
    assert paths(told) == ["rules[测试用户]"]
    assert "测试用户" in files.run("export", files.shop).stdout


def test_the_history_names_no_user(files: Files) -> None:
    files.apply({"whitelist": {"users": ["ann@example.com"]}})
    (record,) = files.admin("ListChanges", service_key=files.shop).changes
    assert record.summary == "apply a file: 1 in whitelist"
