"""Replaying a log says who would move: every format, every way in, and no user by name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from canary_engine.bucketing import bucket, prefix
from canaryctl.app import cli
from canaryctl.replay import run, tally
from canaryctl.replay.distinct import Distinct
from canaryctl.replay.lines import Format, detect
from canaryctl.replay.policies import SALT
from click.testing import CliRunner
from mmh3 import mmh3_x64_128_uintdigest
from support.admin import admin_of
from support.service import serve_in_thread

USERS = [f"u-{number}" for number in range(1_000)]
AGENT = "curl/8.5"
POLICY = """
service_key: shop
versions: [{version: v1, status: stable}, {version: v2}]
release: {version: v2, percentage: 20}
rules:
  - {name: testers, source: header, key: x-test, exact: yes, variant: canary}
  - {name: admin, source: path, pattern: "^/admin", variant: stable}
segments:
  - {name: pilots, canary_eligible: true, listed: true, criteria: {regions: [eu]}}
"""


def combined(user: str, path: str = "/api?q=1") -> str:
    when = "24/Nov/2026:00:00:01 +0000"
    return f'203.0.113.9 - {user} [{when}] "GET {path} HTTP/1.1" 200 12 "-" "{AGENT}"\n'


def kong(user: str, service: str = "shop", **headers: str) -> str:
    request = {"uri": "/api?q=1", "headers": {"x-user-id": user, **headers}}
    line = {"request": request, "client_ip": "203.0.113.9", "started_at": 1_795_000_000_000}
    return json.dumps({**line, "service": {"name": service}, "consumer": None}) + "\n"


def described(user: str, **fields: Any) -> str:
    return json.dumps({"headers": {"X-User-Id": user}, "path": "/api", **fields}) + "\n"


class Replays:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policy = self.write("proposed.yaml", POLICY)

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def __call__(self, *words: str, text: bytes | None = None) -> dict[str, Any]:
        line = ["replay", "--policy", self.policy, "--output", "json", *words]
        result = CliRunner().invoke(cli, line, input=text)
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found


@pytest.fixture
def replays(tmp_path: Path) -> Replays:
    return Replays(tmp_path)


def moved(found: dict[str, Any], way: str = "stable-to-canary") -> int:
    return next(int(row["requests"]) for row in found["moved"] if row["way"] == way)


def drawn(percentage: float = 20) -> int:
    return sum(bucket(prefix(SALT), user) < percentage * 1_000 for user in USERS)


@pytest.mark.parametrize("line", [combined, kong, described], ids=["combined", "kong", "requests"])
def test_a_log_of_any_format_is_decided_as_a_gateway_would(replays: Replays, line: Any) -> None:
    log = replays.write("log", "".join(map(line, USERS)))
    found = replays(log)
    assert (found["requests"], found["bad_lines"]) == (1_000, 0)
    assert moved(found) == drawn()
    assert abs(found["moved"][0]["users"] - drawn()) <= drawn() * 0.02


def test_rules_and_segments_are_told_apart(replays: Replays) -> None:
    person = {"listed_in": ["pilots"]}
    lines = [
        kong("u-1", **{"x-test": "yes"}),
        combined("u-1", "/admin/x"),
        described("u-1", person=person),
    ]
    logs = [replays.write(f"{n}.log", line) for n, line in enumerate(lines)]
    rows = {(r["reason"], r.get("matched"), r["variant"]) for r in replays(*logs)["proposed"]}
    assert rows == {
        ("rule", "testers", "canary"),
        ("rule", "admin", "stable"),
        ("segment", "pilots", "canary"),
    }


SEGMENTED = """
service_key: shop
versions: [{version: v1, status: stable}, {version: v2}]
release: {version: v2, percentage: 20, strategy: STRATEGY}
identity: {attribute_headers: {tier: x-tier}}
segments:
  - {name: premium, canary_eligible: true, percentage: 50, criteria: {tiers: [premium]}}
  - {name: vip, canary_eligible: false, criteria: {tiers: [vip]}}
"""


@pytest.mark.parametrize(
    ("strategy", "premium", "vip"), [("combined", 50, 0), ("percentage", 20, 20)]
)
def test_each_segment_has_its_share_of_the_canary_whatever_decided(
    replays: Replays, strategy: str, premium: float, vip: float
) -> None:
    replays.write("proposed.yaml", SEGMENTED.replace("STRATEGY", strategy))
    now = replays.write("now.yaml", SEGMENTED.replace("STRATEGY", "feature-flag"))
    tiers = ["premium", "vip", "free", "free"]
    log = replays.write("log", "".join(kong(u, **{"x-tier": t}) for u in USERS for t in tiers))
    found = {row.get("segment"): row for row in replays(log, "--against", now)["segments"]}
    assert list(found) == ["premium", "vip", None]
    assert [row["requests"] for row in found.values()] == [1_000, 1_000, 2_000]
    assert [row["percentage"] for row in found.values()] == [25, 25, 50]
    assert [row["now"] for row in found.values()] == [0, 0, 0]
    expected = {"premium": premium, "vip": vip, None: 20}
    for name, share in expected.items():
        assert found[name]["proposed"] == round(100 * drawn(share) / len(USERS), 3), name


def test_the_table_of_segments_is_there_for_people(replays: Replays) -> None:
    replays.write("proposed.yaml", SEGMENTED.replace("STRATEGY", "combined"))
    log = replays.write("log", kong("u-1", **{"x-tier": "vip"}))
    line = ["replay", "--policy", replays.policy, log]
    page = CliRunner().invoke(cli, line).stdout
    table = page[page.index("canary by segment") :].splitlines()
    assert table[1].split() == [
        "segment",
        "requests",
        "of",
        "all",
        "canary",
        "now",
        "canary",
        "proposed",
    ]
    assert next(line.split() for line in table if "vip" in line) == [
        "vip", "1", "100", "%", "0", "%", "0", "%",
    ]  # fmt: skip


@pytest.mark.parametrize("kept", [1, 3, 100_000])
def test_requests_that_say_the_same_are_decided_alike(
    replays: Replays, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    said = [*USERS[:7], "", *USERS[3:9]] * 3
    lines = [
        kong(user, **{"x-test": "yes"} if place % 4 == 0 else {}) for place, user in enumerate(said)
    ]
    lines += [described(user, path=path) for user in said for path in ("/admin", "/api")]
    logs = [
        replays.write("kong.log", "".join(lines[: len(said)])),
        replays.write("requests.log", "".join(lines[len(said) :])),
    ]
    one_by_one = [replays(replays.write("one.log", line)) for line in lines]
    monkeypatch.setattr(tally, "KEPT_ANSWERS", kept)
    found = replays(*logs)
    for way in ("stable-to-canary", "stays-stable"):
        assert moved(found, way) == sum(moved(one, way) for one in one_by_one)
    assert found["needing_the_store"] == sum(one["needing_the_store"] for one in one_by_one)


def test_a_header_that_came_twice_is_joined_as_the_gateway_does(replays: Replays) -> None:
    once, twice = json.loads(kong("u-1")), json.loads(kong("u-1"))
    once["request"]["headers"]["x-test"] = ["yes"]
    twice["request"]["headers"]["x-test"] = ["yes", "no"]
    log = replays.write("log", json.dumps(once) + "\n" + json.dumps(twice) + "\n")
    reasons = [row["reason"] for row in replays(log)["proposed"]]
    assert (len(reasons), reasons.count("rule")) == (2, 1)


def test_lines_that_cannot_be_read_are_counted(replays: Replays) -> None:
    for line in (combined, kong, described):
        bad = "\n" + "garbage\n" + '{"headers": 5}\n' + "\xff\n"
        log = replays.write("log", line("u-1") + bad + line("u-2"))
        found = replays(log)
        assert (found["requests"], found["bad_lines"]) == (2, 3), line
        assert found["first_bad_line"] == {"file": log, "line": 3}


@pytest.mark.parametrize("line", [combined, kong, described], ids=["combined", "kong", "requests"])
def test_the_first_line_that_cannot_be_read_is_named_however_it_is_read(
    replays: Replays, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: Any
) -> None:
    good = replays.write("good.log", "".join(map(line, USERS)))
    text = "".join(map(line, USERS[:700])) + "\n" + "garbage\n" + line("u") + "garbage\n"
    spoiled = replays.write("spoiled.log", text)
    packed = str(tmp_path / "spoiled.log.gz")
    Path(packed).write_bytes(gzip.compress(text.encode()))
    monkeypatch.setattr(run, "BLOCK_BYTES", 5_000)
    monkeypatch.setattr(run, "PART_BYTES", 20_000)
    for log in (spoiled, packed):
        assert replays(good, log)["first_bad_line"] == {"file": log, "line": 702}
    assert "first_bad_line" not in replays(good)
    monkeypatch.setattr(run, "SMALL_BYTES", 0)
    found = replays(good, spoiled, "--jobs", "2")
    assert found["first_bad_line"] == {"file": spoiled, "line": 702}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no line"),
        ("\n\n", "holds no line"),
        ("\nPNG\ngarbage\n", "none of 2 lines can be read as combined; the first is line 2"),
        ("{broken\n", "none of 1 lines can be read as requests; the first is line 1"),
    ],
)
def test_a_log_without_a_readable_line_is_a_mistake_that_says_what_was_expected(
    replays: Replays, text: str, said: str
) -> None:
    log = replays.write("log", text)
    result = CliRunner().invoke(cli, ["replay", "--policy", replays.policy, log])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{log}: {said}" in result.stderr
    assert "nginx's combined format, Kong's JSON log, or JSON lines" in result.stderr


def test_lines_about_other_services_are_left_out(replays: Replays) -> None:
    log = replays.write("log", kong("u-1") + kong("u-2", service="other"))
    found = replays(log)
    assert (found["requests"], found["lines_of_other_services"]) == (1, 1)


def test_a_compressed_log_and_stdin_count_the_same(replays: Replays, tmp_path: Path) -> None:
    text = "".join(map(combined, USERS)).encode()
    (tmp_path / "log.gz").write_bytes(gzip.compress(text))
    assert moved(replays(str(tmp_path / "log.gz"))) == drawn()
    assert moved(replays("-", "--jobs", "1", text=text)) == drawn()


def test_many_workers_count_what_one_does(
    replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = replays.write("log", "".join(map(combined, USERS)) + combined("last").rstrip())
    alone = replays(log)
    monkeypatch.setattr(run, "SMALL_BYTES", 0)
    monkeypatch.setattr(run, "PART_BYTES", 10_000)
    together = replays(log, "--jobs", "2")
    for result in (alone, together):
        del result["seconds"], result["lines_per_second"]
    assert together == alone
    assert together["lines"] == 1_001


def test_a_proposal_is_compared_with_a_file_or_a_service(replays: Replays) -> None:
    log = replays.write("log", "".join(map(described, USERS)))
    now = replays.write("now.yaml", POLICY.replace("percentage: 20", "percentage: 50"))
    found = replays(log, "--against", now)
    assert moved(found, "canary-to-stable") == drawn(50) - drawn(20)
    assert (moved(found), moved(found, "stays-canary")) == (0, drawn(20))
    with serve_in_thread() as service, admin_of(service.admin_address, "shop") as admin:
        admin.release(100)
        against = replays(log, "--against", "shop", "--address", service.admin_address)
        assert moved(against, "canary-to-stable") + moved(against, "stays-canary") == 1_000


@pytest.mark.parametrize("change", ["share", "rule", "salt"])
def test_both_policies_decide_every_request_as_each_would_alone(
    replays: Replays, change: str
) -> None:
    policy = POLICY.replace("percentage: 20", "percentage: 20, salt: one")
    policies = {
        "share": policy.replace("percentage: 20", "percentage: 50"),
        "rule": policy.replace("exact: yes", "exact: no"),
        "salt": policy.replace("salt: one", "salt: other"),
    }
    replays.write("proposed.yaml", policy)
    other = replays.write("other.yaml", policies[change])
    lines = [described(user) for user in USERS[:300]]
    lines += [described(user, person={"is_known": False}) for user in USERS[:50]]
    lines += [described(user, person={"listed_in": ["pilots"]}) for user in USERS[:50]]
    lines += [described(user, path="/admin/x") for user in USERS[:50]]
    lines += [kong(user, **{"x-test": "yes"}) for user in USERS[:50]]
    logs = [
        replays.write("a.log", "".join(lines[:450])),
        replays.write("b.log", "".join(lines[450:])),
    ]
    found = replays(*logs, "--against", other)
    alone = replays(*logs)
    replays.policy = other
    alone_other = replays(*logs)
    assert found["proposed"] == alone["proposed"]
    assert found["now"] == alone_other["proposed"]


def test_users_are_hashed_unless_asked_for(replays: Replays) -> None:
    log = replays.write("log", "".join(map(described, USERS)))
    assert "u-" not in json.dumps(replays(log)["movers"])
    named = replays(log, "--show-users")["movers"]["stable-to-canary"]
    assert len(named) == 20
    assert set(named) <= set(USERS)
    line = ["replay", "--policy", replays.policy, log]
    page = CliRunner().invoke(cli, line).stdout
    assert "who moves" in page
    assert "u-" not in page


def test_requests_that_need_the_store_are_said(replays: Replays) -> None:
    log = replays.write("log", described("u-1") + described(""))
    assert replays(log)["needing_the_store"] == 1
    page = CliRunner().invoke(cli, ["replay", "--policy", replays.policy, log]).stdout
    assert "1 requests (50 %) are of users whose stored profile and listed segments count" in page


def test_a_log_that_is_not_there_is_a_mistake(replays: Replays) -> None:
    result = CliRunner().invoke(cli, ["replay", "--policy", replays.policy, "/nowhere"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "/nowhere: there is no such file" in result.stderr


def test_a_spoiled_gz_is_a_mistake(replays: Replays, tmp_path: Path) -> None:
    whole = gzip.compress("".join(map(combined, USERS)).encode())
    (tmp_path / "log.gz").write_bytes(whole[: len(whole) // 2])
    line = ["replay", "--policy", replays.policy, str(tmp_path / "log.gz")]
    assert CliRunner().invoke(cli, line).exit_code == 2


@pytest.mark.parametrize(
    ("line", "written"),
    [
        (combined("u"), Format.COMBINED),
        (kong("u"), Format.KONG),
        (described("u"), Format.REQUESTS),
        ("\n\n" + kong("u"), Format.KONG),
        ("{broken", Format.REQUESTS),
        ("", Format.COMBINED),
    ],
)
def test_the_format_shows_in_the_first_line(line: str, written: Format) -> None:
    assert detect(line.encode()) is written


@pytest.mark.parametrize("users", [0, 1, 1_000, 50_000, 200_000])
def test_distinct_users_are_estimated_within_three_percent(users: int) -> None:
    found = Distinct()
    for number in range(users):
        found.add(mmh3_x64_128_uintdigest(f"u-{number}".encode()))
    assert abs(len(found) - users) <= users * 0.03


def test_users_of_two_parts_are_counted_once() -> None:
    draw = Random(7)
    one, other = Distinct(), Distinct()
    for distinct in (one, other):
        for _ in range(30_000):
            distinct.add(draw.getrandbits(128))
    largest = bytearray(map(max, one.registers, other.registers))
    one.merge(other)
    assert one.registers == largest
    one.merge(one)
    assert one.registers == largest


def test_a_line_without_end_is_not_kept(replays: Replays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BLOCK_BYTES", 1_000)
    found = replays("-", "--jobs", "1", text=combined("u-1").encode() + b"x" * 100_000)
    assert found["requests"] == 1
    assert found["bad_lines"] > 0
