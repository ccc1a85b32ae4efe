"""What canaryctl says of a write: from and to, and whoever else changed something just before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from canary.admin.v1 import admin_pb2
from canaryctl.session import Session
from canaryctl.written import LATELY_S, Told, lines, others
from decision_svc.app import Running
from support.canaryctl import Canaryctl, silent_service

NUMBERS = count(1)


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with silent_service() as running:
        yield running


@pytest.fixture
def kim(service: Running) -> Canaryctl:
    return Canaryctl(service.admin_address, f"told-{next(NUMBERS)}").with_release()


@pytest.fixture
def ann(kim: Canaryctl) -> Canaryctl:
    """A colleague, at the same service key."""
    return Canaryctl(kim.address, kim.shop, actor="ann")


def test_of_two_operators_at_once_the_later_is_told_what_the_earlier_changed(
    kim: Canaryctl,
) -> None:
    def client(actor: str, share: int) -> subprocess.Popen[str]:
        start = [sys.executable, "-m", "canaryctl", "--address", kim.address, "--actor", actor]
        line = ["percentage", kim.shop, str(share), "--reason", actor, "--output", "json"]
        return subprocess.Popen([*start, *line], stdout=subprocess.PIPE, text=True)

    both = {"ann": client("ann", 4), "bob": client("bob", 3)}
    answers = {actor: json.loads(process.communicate()[0]) for actor, process in both.items()}
    assert [process.returncode for process in both.values()] == [0, 0]
    first, second = sorted(answers, key=lambda actor: int(answers[actor]["revision"]))
    shares = {"ann": 4, "bob": 3}
    assert changed(answers[first]) == ("release.percentage", 5, shares[first])
    assert changed(answers[second]) == ("release.percentage", shares[first], shares[second])
    told = answers[second]["others"][0]
    assert (told["actor"], told["revision"]) == (first, 4)
    assert told["summary"] == f"set percentage to {shares[first]} %"
    assert [o["actor"] for o in answers[first]["others"]] == ["kim"] * 3  # who made the release


def changed(answer: dict[str, Any]) -> tuple[str, Any, Any]:
    (change,) = answer["changes"]
    return change["path"], change["before"], change["after"]


def test_whoever_replaces_what_another_has_just_added_reads_what_it_was(
    kim: Canaryctl, ann: Canaryctl, tmp_path: Path
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules: [{name: a, source: path, exact: /a, variant: canary}]\n")
    ann.ok("rule add SHOP hers --source path --exact /hers --variant stable --reason x")
    told = kim.ok(f"rule set SHOP -f {file} --reason x").splitlines()
    assert told[0] == f"set 1 rule ({kim.shop}, revision 5)"
    assert [line.partition(":")[0] for line in told[1:3]] == ["- rules[hers]", "+ rules[a]"]
    assert '"exact": "/hers"' in told[1]
    assert told[3].endswith("s before this, ann made revision 4: add rule hers")
    assert len(told) == 4  # of what kim made kim is not told


def test_an_applied_file_tells_of_another_s_change_too(
    kim: Canaryctl, ann: Canaryctl, tmp_path: Path
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(f"service_key: {kim.shop}\nwhitelist: {{users: [u-1]}}\n")
    ann.ok("whitelist add SHOP --user u-2 --reason x")
    told = kim.ok(f"apply -f {file} --reason x")
    assert "- whitelist.users[u-2]" in told
    assert "ann made revision 4: add to the whitelist" in told
    assert "ann" not in kim.ok(f"apply -f {file} --reason x")


def test_a_change_between_reading_and_writing_loses_the_race(
    kim: Canaryctl, ann: Canaryctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    kim.ok("approve SHOP promote v2 --reason x")
    send = Session.call

    def after_anns(session: Session, method: Any, request: Any) -> Any:
        if isinstance(request, admin_pb2.WithdrawApprovalRequest):
            monkeypatch.undo()
            ann.ok("approve SHOP raise v2 --percentage 9 --reason x")
        return send(session, method, request)

    monkeypatch.setattr(Session, "call", after_anns)
    error = kim.refused("approvals withdraw SHOP --all --reason x", 3)
    assert "revision 5 by ann" in error["message"]
    assert len(kim.read("approvals list SHOP")["approvals"]) == 2


def test_a_long_list_of_changes_is_cut_and_says_so(kim: Canaryctl, tmp_path: Path) -> None:
    users = "".join(f"- u-{number}\n" for number in range(50))
    file = tmp_path / "whitelist.yaml"
    file.write_text(f"users:\n{users}")
    told = kim.ok(f"whitelist set SHOP -f {file} --reason x").splitlines()
    assert (len(told), told[-1]) == (22, "and 30 more changes")
    assert len(kim.read("whitelist set SHOP --user u-1 --reason x")["changes"]) == 49


def test_what_another_changed_is_told_with_how_long_before() -> None:
    record = admin_pb2.ChangeRecord(revision=3, actor="ann", summary="set percentage to 4 %")
    record.at.seconds = 1_000
    told = Told(others=[record], at_s=1_000.0 + LATELY_S)
    assert lines(told) == ["60 s before this, ann made revision 3: set percentage to 4 %"]


@pytest.mark.parametrize(
    ("actor", "age_s", "read", "is_told"),
    [
        ("ann", LATELY_S, 3, True),
        ("ann", LATELY_S + 1, 3, False),
        ("ann", LATELY_S + 1, 2, True),  # it came between looking and writing
        ("ann", LATELY_S + 1, None, False),
        ("kim", 0, 2, False),
    ],
)
def test_another_s_change_is_told_if_it_is_of_the_last_minute_or_was_not_seen(
    actor: str, age_s: int, read: int | None, *, is_told: bool
) -> None:
    own, before = (
        admin_pb2.ChangeRecord(revision=revision, actor=name)
        for revision, name in ((4, "kim"), (3, actor))
    )
    own.at.seconds, before.at.seconds = 1_000, 1_000 - age_s
    assert list(others([own, before], read)) == ([before] if is_told else [])
