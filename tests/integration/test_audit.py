"""The audit trail over real Redis: every change is in it, and whoever edits it is found out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from socket import inet_ntoa
from typing import Any

import pytest
from decision_svc.app import Running
from redis import Redis
from support.admin import Admin, admin_of
from support.canaryctl import Ctl
from support.redis_server import RedisServer, running_redis
from support.service import await_ready, serve_in_thread

Store = Any
"""A client of Redis, whose own types know texts only."""
SHOP = "shop"
CHAIN = "canary:{shop}:audit"
ESTABLISHED = "01"
"""In Linux's table of connections."""
# A store that is late on a slow machine refuses writes, which is not what is tested.
PATIENT = {"store_deadline_ms": 10_000}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Store]:
    with Redis.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def service(server: RedisServer, redis: Store) -> Iterator[Running]:
    with serve_in_thread(redis_url=server.url, **PATIENT) as running:
        yield running


@pytest.fixture
def admin(service: Running) -> Iterator[Admin]:
    with admin_of(service.admin_address, SHOP) as admin:
        yield admin


class Auditor(Ctl):
    """canaryctl, of which the trail is asked."""

    def head(self) -> str:
        return str(self.told("audit", "verify", SHOP)["head"])

    def broken(self, *words: str) -> str:
        result = self("audit", "verify", *(words or (SHOP,)))
        # What the service logs meanwhile, from its thread, goes to the same standard output.
        assert result.exit_code == 1
        return result.stderr.splitlines()[0]


@pytest.fixture
def ctl(service: Running) -> Auditor:
    return Auditor(service.admin_address)


def entries(admin: Admin, service_key: str = SHOP, **fields: Any) -> list[dict[str, Any]]:
    found = admin("ListAudit", service_key=service_key, **fields)
    return [json.loads(entry.entry) for answer in found for entry in answer.entries]


def own_address(address: str) -> str:
    """From where the one client of that address is connected to it."""
    server = f"0100007F:{int(address.rpartition(':')[2]):04X}"
    tables = [Path(f"/proc/self/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split()[:4] for table in tables for line in table.splitlines()]
    (ours,) = [row[1] for row in rows if row[2].endswith(server) and row[3] == ESTABLISHED]
    host, _, port = ours.partition(":")
    return f"{inet_ntoa(bytes.fromhex(host[-8:])[::-1])}:{int(port, 16)}"


def five_changes(admin: Admin) -> None:
    admin("RegisterVersion", version={"version": "v1", "status": "stable"})
    admin("RegisterVersion", version={"version": "v2"})
    admin("StartRelease", version="v2", percentage=5)
    admin("SetPercentage", percentage=10)
    admin("MoveRelease", move="roll-back")


def test_a_change_is_written_down_with_who_when_why_where_before_and_after(
    admin: Admin, service: Running
) -> None:
    five_changes(admin)
    began = datetime.now(UTC)
    change = {
        "service_key": SHOP,
        "actor": "ada",
        "reason": "for the testers",
    }
    admin("SetBucketing", change=change, bucketing={"cookie": "sticky"})
    ended = datetime.now(UTC)
    first, *_, last = entries(admin)
    assert began <= datetime.fromisoformat(last["at"]) <= ended
    assert datetime.fromisoformat(first["at"]) <= began
    assert last["peer"] == first["peer"] == own_address(service.admin_address)
    assert first["salt"]
    assert first["previous"] == ""
    assert first["changes"] == [
        {"path": "versions[v1]", "after": {"version": "v1", "status": "stable"}}
    ]
    known = ("sequence", "revision", "service_key", "actor", "reason", "summary", "how", "role")
    assert {name: last[name] for name in known} == {
        "sequence": 6,
        "revision": 6,
        "service_key": SHOP,
        "actor": "ada",
        "reason": "for the testers",
        "summary": "set how hash keys are found",
        "how": "insecure",
        "role": "admin",
    }
    assert last["changes"] == [{"path": "bucketing.cookie", "after": "sticky"}]
    assert len(last["document"]) == 64
    assert "salt" not in last


def test_moves_of_a_release_tell_both_sides_of_every_field(admin: Admin) -> None:
    five_changes(admin)
    changed = {c["path"]: (c.get("before"), c.get("after")) for c in entries(admin)[-1]["changes"]}
    assert changed["release.percentage"] == (10, 0)
    assert changed["release.status"] == (None, "rolled-back") or changed["release.status"] == (
        "in-progress",
        "rolled-back",
    )
    assert changed["versions[v2].status"] == ("canary", None)
    assert "revision" not in changed


def test_ids_of_users_are_hashed_and_people_who_change_things_are_not(
    admin: Admin, ctl: Auditor, redis: Store, service: Running
) -> None:
    began = datetime.now(UTC)
    admin("SetWhitelist", whitelist={"users": ["secret-ann"], "consumers": ["secret-firm"]})
    admin("PutFlag", flag={"name": "checkout", "enabled": True, "users": ["secret-ann"]})
    admin("AddRule", rule=_rule("mine", "x-user-id", "secret-ann"))
    admin("AddRule", rule=_rule("tier", "x-user-tier", "premium"))
    admin("PutSegment", segment={"name": "beta", "listed": True, "canary_eligible": True})
    admin("AddMembers", segment="beta", users=["secret-ann", "secret-bob"])
    admin("RemoveMembers", segment="beta", users=["secret-ann"])
    admin("PutProfile", **_who(), profile={"user": "secret-ann", "tier": "secret-tier"})
    admin("RemoveProfile", **_who(), user="secret-ann")
    kept = b"".join(redis.lrange(CHAIN, 0, -1) + redis.lrange("canary:audit", 0, -1))
    assert b"secret" not in kept
    found = entries(admin)
    ann, firm = (change["after"] for change in found[0]["changes"])
    assert (firm[0], ann[0]) == ("#", "#")
    assert [change["path"] for change in found[0]["changes"]] == [
        f"whitelist.users[{ann}]",
        f"whitelist.consumers[{firm}]",
    ]
    assert found[1]["changes"][0]["after"]["users"] == [ann]
    assert found[2]["changes"][0]["after"]["exact"] == ann
    assert found[3]["changes"][0]["after"]["exact"] == "premium"
    assert ann in found[5]["members"][0]["added"]
    assert found[6]["members"] == [{"segment": "beta", "removed": [ann]}]
    put, removed = entries(admin, "")
    assert (put["summary"], removed["summary"]) == ("put a profile", "remove a profile")
    assert put["user"] == removed["user"] != ann, "nobody is followed from one chain to another"
    assert put["changes"] == [{"path": "tier", "after": removed["changes"][0]["before"]}]
    assert put["actor"] == "tester"
    assert began <= datetime.fromisoformat(put["at"]) <= datetime.fromisoformat(removed["at"])
    assert datetime.fromisoformat(removed["at"]) <= datetime.now(UTC)
    assert put["peer"] == removed["peer"] == own_address(service.admin_address)
    assert ctl("audit", "verify").exit_code == 0


def test_addresses_and_values_that_may_be_somebodys_are_hashed_and_a_candidate_is_found_by_its_mark(
    admin: Admin, ctl: Auditor, redis: Store
) -> None:
    alice, home, wide = "alice@example.com", "203.0.113.77", "198.51.100.0/24"
    admin("AddToWhitelist", entries={"ips": [home, wide]})
    admin("AddRule", rule=_rule("alice", "x-user-email", alice))
    kept = b"".join(redis.lrange(CHAIN, 0, -1))
    assert home.encode() not in kept
    assert alice.encode() not in kept
    listed, ruled = (entry["changes"] for entry in entries(admin))
    marks = {text: ctl("audit", "mark", SHOP, text).stdout.strip() for text in (alice, home)}
    assert [change["path"] for change in listed] == [
        f"whitelist.ips[{marks[home]}]",
        f"whitelist.ips[{wide}]",
    ]
    assert ruled[0]["after"]["exact"] == marks[alice]
    ctl.head()


def _rule(name: str, key: str, exact: str) -> dict[str, Any]:
    return {"name": name, "source": "header", "key": key, "exact": exact, "variant": "canary"}


def _who() -> dict[str, str]:
    return {"actor": "tester", "reason": "test"}


def test_the_trail_goes_on_after_a_restart_and_is_paged(
    server: RedisServer, admin: Admin, ctl: Auditor
) -> None:
    five_changes(admin)
    with (
        serve_in_thread(redis_url=server.url, **PATIENT) as another,
        admin_of(another.admin_address, SHOP) as other,
    ):
        for number in range(120):
            other("AddToWhitelist", entries=_ips(number))
        assert [e["sequence"] for e in entries(other, after_sequence=3)] == list(range(4, 126))
    ctl.head()


def _ips(number: int) -> dict[str, Any]:
    return {"ips": [f"192.0.2.{number}"]}


def test_data_from_before_there_was_a_trail_begins_one_with_the_next_change(
    admin: Admin, ctl: Auditor, redis: Store
) -> None:
    five_changes(admin)
    redis.delete(CHAIN)
    admin("RemoveVersion", version="v2")
    (only,) = entries(admin)
    assert (only["sequence"], only["revision"], only["previous"]) == (1, 6, "")
    ctl.head()


def test_a_whole_chain_is_verified_and_its_head_is_found_again(admin: Admin, ctl: Auditor) -> None:
    five_changes(admin)
    head = ctl.head()
    assert ctl("audit", "verify", SHOP, "--head", head).exit_code == 0
    admin("RemoveVersion", version="v2")
    assert ctl("audit", "verify", SHOP, "--head", head).exit_code == 0
    assert ctl.head() != head


def test_an_edited_entry_is_found(admin: Admin, ctl: Auditor, redis: Store) -> None:
    five_changes(admin)
    _edit(redis, 2, b'"actor":"tester"', b'"actor":"mallory"')
    assert ctl.broken().startswith("error: entry 3: it was edited")


def test_an_edited_entry_is_found_although_its_hash_was_made_anew(
    admin: Admin, ctl: Auditor, redis: Store
) -> None:
    five_changes(admin)
    _edit(redis, 2, b'"actor":"tester"', b'"actor":"mallory"', seal=True)
    assert ctl.broken().startswith("error: entry 4: it does not follow the one before it")


def test_an_entry_removed_in_the_middle_is_found(admin: Admin, ctl: Auditor, redis: Store) -> None:
    five_changes(admin)
    redis.lrem(CHAIN, 1, _link(redis, 2))
    assert "entry 3: here is the one that says it is number 4" in ctl.broken()


def test_the_first_entry_removed_is_found(admin: Admin, ctl: Auditor, redis: Store) -> None:
    five_changes(admin)
    redis.lpop(CHAIN)
    assert "entry 1: here is the one that says it is number 2" in ctl.broken()


def test_the_newest_entry_removed_is_found(admin: Admin, ctl: Auditor, redis: Store) -> None:
    five_changes(admin)
    redis.rpop(CHAIN)
    assert "entry 5 is missing: the policy is at revision 5" in ctl.broken()


def test_the_newest_entry_removed_together_with_its_revision_is_found_with_the_head(
    admin: Admin, ctl: Auditor, redis: Store
) -> None:
    five_changes(admin)
    head = ctl.head()
    redis.rpop(CHAIN)
    before = redis.hget("canary:{shop}:revisions", "4")
    redis.hset("canary:{shop}:policy", mapping={"revision": "4", "document": before or b""})
    redis.hdel("canary:{shop}:revisions", "5")
    assert "entry 5 is missing" in ctl.broken(), "the history has one of it"
    redis.zremrangebyscore("canary:{shop}:changes", 5, 5)
    assert ctl("audit", "verify", SHOP).exit_code == 0
    assert f"no entry has the hash {head}" in ctl.broken(SHOP, "--head", head)


@pytest.mark.parametrize("gone", [("audit",), ("audit", "policy"), ("audit", "changes")])
def test_a_trail_that_was_removed_is_not_whole_while_anything_else_tells_of_a_revision(
    admin: Admin, ctl: Auditor, redis: Store, gone: tuple[str, ...]
) -> None:
    five_changes(admin)
    redis.delete(*(f"canary:{{shop}}:{name}" for name in gone))
    assert ctl.broken() == (
        "error: entry 1 is missing, and all others: revision 5 was made, and the trail has no "
        "entry: it was removed"
    )


def test_a_trail_that_was_removed_with_all_there_was_is_not_whole(
    server: RedisServer, admin: Admin, ctl: Auditor, redis: Store
) -> None:
    five_changes(admin)
    head = ctl.head()
    redis.flushall()
    assert "revision 5 was made" in ctl.broken(), "memory has the policy"
    with serve_in_thread(redis_url=server.url, **PATIENT) as restarted:
        await_ready(restarted)
        other = Auditor(restarted.admin_address)
        assert other.broken().startswith("error: shop: there is no entry to verify: nothing was")
        assert f"no entry has the hash {head}" in other.broken(SHOP, "--head", head)


def test_a_trail_that_begins_late_says_so(admin: Admin, ctl: Auditor, redis: Store) -> None:
    five_changes(admin)
    assert "begins with" not in ctl("audit", "verify", SHOP).stdout
    redis.delete(CHAIN)
    admin("RemoveVersion", version="v2")
    verified = ctl("audit", "verify", SHOP)
    assert (verified.exit_code, verified.stderr) == (0, "")
    assert "begins with revision 6: what was changed before is not in it" in verified.stdout


def test_an_export_without_entries_is_not_whole(ctl: Auditor, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_text("\n")
    assert "audit.jsonl: there is no entry to verify" in ctl.broken("--file", str(file))


def test_the_trail_of_no_service_key_may_be_empty(ctl: Auditor) -> None:
    verified = ctl("audit", "verify")
    assert (verified.exit_code, verified.stderr) == (0, "")


@pytest.mark.parametrize(
    "words",
    [
        ("audit", "list"),
        ("audit", "export"),
        ("audit", "verify"),
        ("history",),
        ("explain",),
        ("release", "exposure"),
    ],
)
def test_a_service_key_that_nobody_knows_is_no_empty_answer(
    admin: Admin, ctl: Auditor, words: tuple[str, ...]
) -> None:
    five_changes(admin)
    assert ctl(*words, SHOP).exit_code == 0
    result = ctl(*words, "shpo")
    assert result.exit_code == 1
    assert "shpo" in result.stderr


def test_a_release_or_an_address_that_cannot_be_is_no_empty_answer(
    admin: Admin, ctl: Auditor
) -> None:
    five_changes(admin)
    result = ctl("release", "exposure", SHOP, "--release", "r-nope")
    assert (result.exit_code, "nobody was counted for release 'r-nope'" in result.stderr) == (
        1,
        True,
    )
    for address in ("999.1.1.1", "10.0.0.0/8", "here"):
        result = ctl("explain", SHOP, "--ip", address)
        assert (result.exit_code, "is no address" in result.stderr) == (2, True)
    assert ctl("explain", SHOP, "--ip", "2001:db8::7").exit_code == 0


def test_entries_that_changed_places_are_found(admin: Admin, ctl: Auditor, redis: Store) -> None:
    five_changes(admin)
    second, third = _link(redis, 1), _link(redis, 2)
    redis.lset(CHAIN, 1, third)
    redis.lset(CHAIN, 2, second)
    assert "entry 2: here is the one that says it is number 3" in ctl.broken()


def test_an_inserted_entry_is_found(admin: Admin, ctl: Auditor, redis: Store) -> None:
    five_changes(admin)
    redis.linsert(CHAIN, "AFTER", _link(redis, 1), _link(redis, 1))
    assert "entry 3: here is the one that says it is number 2" in ctl.broken()


def test_something_that_is_no_entry_is_found(admin: Admin, ctl: Auditor, redis: Store) -> None:
    five_changes(admin)
    for spoiled in (b"", b"{", b"\xff\xfe {}", b"[]"):
        redis.lset(CHAIN, 2, spoiled)
        assert ctl.broken().startswith("error: entry 3: it was edited")


@pytest.mark.parametrize("revision", ["2", "5"])
def test_an_edited_document_of_a_revision_is_found(
    admin: Admin, ctl: Auditor, redis: Store, revision: str
) -> None:
    five_changes(admin)
    found = redis.hget("canary:{shop}:revisions", revision) or b""
    redis.hset("canary:{shop}:revisions", revision, found.replace(b'"v1"', b'"v9"'))
    assert f"the document that is stored as revision {revision} was edited" in ctl.broken()


def test_an_edited_current_document_is_found(admin: Admin, ctl: Auditor, redis: Store) -> None:
    five_changes(admin)
    found = redis.hget("canary:{shop}:policy", "document") or b""
    redis.hset("canary:{shop}:policy", "document", found.replace(b'"v1"', b'"v9"'))
    assert "the document that is stored as revision 5 was edited" in ctl.broken()


def test_a_chain_of_another_service_key_is_found(admin: Admin, ctl: Auditor, redis: Store) -> None:
    five_changes(admin)
    redis.copy(CHAIN, "canary:{bakery}:audit")
    assert "entry 1: it belongs to the chain of 'shop'" in ctl.broken("bakery")


@pytest.mark.parametrize("spoiled", [b"", b"{", b"nonsense {}"])
def test_a_spoiled_chain_stops_no_change(
    admin: Admin, ctl: Auditor, redis: Store, spoiled: bytes
) -> None:
    five_changes(admin)
    redis.lset(CHAIN, 0, spoiled)
    redis.lset(CHAIN, 4, spoiled)
    admin("RemoveVersion", version="v2")
    assert ctl.broken().startswith("error: entry 1")


def test_an_export_is_verified_without_a_service(
    admin: Admin, ctl: Auditor, tmp_path: Path
) -> None:
    five_changes(admin)
    head, exported = ctl.head(), ctl("audit", "export", SHOP).stdout
    file = tmp_path / "audit.jsonl"
    file.write_text(exported)
    alone = Auditor("127.0.0.1:1")
    result = alone("audit", "verify", "--file", str(file), "--head", head, "--output", "json")
    assert json.loads(result.stdout) == {"service_key": SHOP, "entries": 5, "head": head}
    lines = exported.splitlines(keepends=True)
    file.write_text("".join(lines[:2] + lines[3:]))
    assert "entry 3: here is the one" in alone.broken("--file", str(file))
    file.write_text("".join(lines[:4]))
    assert "no entry has the hash" in alone.broken("--file", str(file), "--head", head)
    file.write_text("nonsense\n")
    assert alone("audit", "verify", "--file", str(file)).exit_code == 2


def test_the_list_shows_who_what_and_what_was_before(admin: Admin, ctl: Auditor) -> None:
    five_changes(admin)
    listed = ctl("audit", "list", SHOP, "--limit", "2", "--changes")
    assert (listed.exit_code, listed.stderr) == (0, "")
    assert "roll back release" in listed.stdout
    assert "release.percentage: 10 -> 0" in listed.stdout
    assert "start release" not in listed.stdout


def test_all_changes_of_many_writers_at_once_are_in_the_chain(
    server: RedisServer, admin: Admin, ctl: Auditor
) -> None:
    with (
        serve_in_thread(redis_url=server.url, **PATIENT) as another,
        admin_of(another.admin_address, SHOP) as other,
        ThreadPoolExecutor(8) as pool,
    ):
        writers = [admin, other]
        profiles = [
            pool.submit(writers[n % 2], "PutProfile", **_who(), profile={"user": f"u{n}"})
            for n in range(30)
        ]
        changes = [
            pool.submit(writers[n % 2], "AddToWhitelist", entries=_ips(n)) for n in range(12)
        ]
        for done in [*profiles, *changes]:
            done.result()
    assert len(entries(admin, "")) == 30
    assert len(entries(admin)) == 12
    assert ctl("audit", "verify").exit_code == 0
    ctl.head()


def test_a_revision_that_is_no_longer_kept_is_said_to_be_so(
    admin: Admin, ctl: Auditor, redis: Store
) -> None:
    five_changes(admin)
    redis.hdel("canary:{shop}:revisions", "2")
    result = ctl("policy", "show", SHOP, "--revision", "2")
    assert (result.exit_code, "revision 2 of 'shop' is no longer kept" in result.stderr) == (
        1,
        True,
    )
    assert "there is no policy of 'shop' at revision 9" in (
        ctl("policy", "show", SHOP, "--revision", "9").stderr
    )
    ctl.head()


def _link(redis: Store, index: int) -> bytes:
    found = redis.lindex(CHAIN, index)
    assert isinstance(found, bytes)
    return found


def _edit(redis: Store, index: int, old: bytes, new: bytes, *, seal: bool = False) -> None:
    hash_, _, entry = _link(redis, index).partition(b" ")
    assert old in entry
    edited = entry.replace(old, new)
    sealed = sha256(edited).hexdigest().encode() if seal else hash_
    redis.lset(CHAIN, index, sealed + b" " + edited)
