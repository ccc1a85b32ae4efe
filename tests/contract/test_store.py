"""What every store does: one suite over the memory and the Redis adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from typing import Any

import pytest
from canary_engine.exposure import mark
from canary_engine.model import Profile, Variant
from decision_svc.exposure.protocol import Served
from decision_svc.store import memory as memory_module
from decision_svc.store import redis as redis_module
from decision_svc.store import was_saved
from decision_svc.store.memory import MemoryStore
from decision_svc.store.protocol import (
    KEPT_REVISIONS,
    AuditStore,
    ChainMoved,
    ChangeRecord,
    Link,
    LostRace,
    MemberEdit,
    PeopleStore,
    PolicyStore,
    StoreError,
    Tail,
)
from decision_svc.store.redis import RedisStore
from support.waiting import WITHIN_S

Store = MemoryStore | RedisStore
Opens = Callable[[], Store]

AWKWARD_NAMES = ["支付服务", "{a}b}{", "", "%", "%7B", "a:policy", "two\nlines", "🦜 spaces", "*?["]


def record(revision: int, actor: str = "ada") -> ChangeRecord:
    return ChangeRecord(
        revision=revision,
        actor=actor,
        at=datetime(2024, 2, 29, 12, 30, 0, 123456, tzinfo=UTC) + timedelta(minutes=revision),
        reason="because 因为",
        summary=f"revision {revision}",
    )


def document(revision: int, **more: Any) -> dict[str, Any]:
    return {"revision": revision, **more}


async def write(
    store: Store, key: str, revision: int, members: Sequence[MemberEdit] = (), **more: Any
) -> None:
    await store.save(key, document(revision, **more), record(revision), members)


async def everybody(store: PeopleStore, key: str, segment: str) -> list[str]:
    users, cursor, _ = await store.members(key, segment)
    found = list(users)
    while cursor:
        users, cursor, _ = await store.members(key, segment, cursor)
        found += users
    return found


async def within_time(generator: AsyncGenerator[str, None]) -> str:
    async with asyncio.timeout(WITHIN_S):
        return await anext(generator)


def a_link(sequence: int, of: str = "shop") -> Link:
    return Link(sequence=sequence, entry=f'{{"of":"{of} {sequence}"}}', hash=f"{sequence:064x}")


def test_every_adapter_is_all_stores(store: Store) -> None:
    policies: PolicyStore = store
    audit: AuditStore = store
    people: PeopleStore = store
    assert [policies, audit, people] == [store, store, store]


async def test_an_empty_store_holds_no_policies(store: Store) -> None:
    assert await store.revisions() == {}
    assert await store.load("shop") is None
    assert await store.load("shop", 1) is None
    assert await store.changes("shop") == []


async def test_an_empty_store_knows_nobody(store: Store) -> None:
    assert await store.listed_in("shop", "u1", ["beta"]) == frozenset()
    assert await store.members("shop", "beta") == ([], "", 0)
    assert await store.profile("u1") is None


async def test_a_saved_document_is_loaded(store: Store) -> None:
    saved = document(1, text="支付", nested={"list": [1, 2.5, None, True]}, empty="")
    await store.save("shop", saved, record(1))
    assert await store.load("shop") == saved
    assert await store.revisions() == {"shop": 1}


@pytest.mark.parametrize("revision", [-1, 0, 2, 7])
async def test_a_first_write_that_is_not_revision_one_loses(store: Store, revision: int) -> None:
    with pytest.raises(LostRace) as caught:
        await write(store, "shop", revision)
    assert (caught.value.expected, caught.value.current) == (revision - 1, 0)
    assert await store.load("shop") is None
    assert await store.revisions() == {}
    assert await store.changes("shop") == []


@pytest.mark.parametrize("revision", [1, 2, 4])
async def test_a_write_for_another_revision_than_the_current_loses(
    store: Store, revision: int
) -> None:
    await write(store, "shop", 1)
    await write(store, "shop", 2)
    with pytest.raises(LostRace, match=r"shop is at revision 2, not") as caught:
        await write(store, "shop", revision, by="a loser")
    assert (caught.value.service_key, caught.value.current) == ("shop", 2)
    assert await store.load("shop") == document(2)
    assert await store.load("shop", 1) == document(1)
    assert [change.revision for change in await store.changes("shop")] == [2, 1]


async def test_a_write_may_name_the_current_revision_and_leave_some_out(store: Store) -> None:
    await store.save("shop", document(7), record(7), (), a_link(1), current=0)
    assert await store.revisions() == {"shop": 7}
    assert await store.load("shop") == await store.load("shop", 7) == document(7)
    assert await store.load("shop", 1) is None
    assert await store.changes("shop") == [record(7)]
    with pytest.raises(LostRace, match="shop is at revision 7, not 0"):
        await store.save("shop", document(9), record(9), (), a_link(2), current=0)
    await write(store, "shop", 8)
    assert await store.changes("shop", before=8) == [record(7)]
    assert [change.revision for change in await store.changes("shop")] == [8, 7]


async def test_of_two_concurrent_writers_exactly_one_wins(open_store: Opens) -> None:
    stores = {"ada": open_store(), "bob": open_store()}
    for revision in range(1, 51):
        writes = (
            stores[name].save("shop", document(revision, by=name), record(revision, name))
            for name in stores
        )
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        winner, loser = stores if outcomes[0] is None else reversed(stores)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [LostRace]
        assert await stores[loser].load("shop") == document(revision, by=winner)
        assert (await stores[loser].changes("shop", limit=1))[0].actor == winner


async def test_one_service_key_does_not_touch_another(store: Store) -> None:
    for key in AWKWARD_NAMES:
        await write(store, key, 1, [MemberEdit(segment="beta", add=[f"of {key}"])], name=key)
    await write(store, "支付服务", 2)
    assert await store.revisions() == dict.fromkeys(AWKWARD_NAMES, 1) | {"支付服务": 2}
    for key in AWKWARD_NAMES:
        assert await store.load(key, 1) == document(1, name=key)
        assert await everybody(store, key, "beta") == [f"of {key}"]


async def test_every_revision_is_kept(store: Store) -> None:
    for revision in range(1, 21):
        await write(store, "shop", revision)
    kept = [await store.load("shop", revision) for revision in range(22)]
    assert kept == [None, *(document(revision) for revision in range(1, 21)), None]


async def test_only_the_newest_documents_are_kept_but_every_change(store: Store) -> None:
    last = KEPT_REVISIONS + 3
    for revision in range(1, last + 1):
        await write(store, "shop", revision)
    kept = [await store.load("shop", revision) for revision in (1, 3, 4, last)]
    assert kept == [None, None, document(4), document(last)]
    assert await store.revisions() == {"shop": last}
    assert len(await store.changes("shop", limit=2 * last)) == last


async def test_a_change_keeps_the_name_of_its_request(store: Store) -> None:
    named = replace(record(1), key="deploy-7", digest="ab")
    await store.save("shop", document(1), named)
    assert await store.changes("shop") == [named]


async def test_an_empty_store_has_no_links(store: Store) -> None:
    for key in ("", "shop"):
        assert await store.links(key) == []
        assert await store.tail(key) == Tail()
    assert await store.newest("shop") == (None, Tail())


async def test_a_link_is_written_with_its_revision(store: Store) -> None:
    for number in (1, 2, 3):
        await store.save("shop", document(number), record(number), (), a_link(number))
    assert await store.links("shop") == [a_link(1), a_link(2), a_link(3)]
    tail = Tail(length=3, first=a_link(1), last=a_link(3))
    assert await store.tail("shop") == tail
    assert await store.newest("shop") == (document(3), tail)
    assert await store.links("") == []


async def test_links_are_paged_by_number(store: Store) -> None:
    for number in range(1, 6):
        await store.append("shop", a_link(number))
    pages = [await store.links("shop", after, limit) for after, limit in ((0, 2), (3, 9), (5, 1))]
    assert pages == [[a_link(1), a_link(2)], [a_link(4), a_link(5)], []]
    assert await store.links("shop", 0, 0) == []


async def test_a_link_that_is_not_the_next_one_is_not_written(store: Store) -> None:
    await store.append("shop", a_link(1))
    for number in (1, 3):
        with pytest.raises(ChainMoved) as caught:
            await store.append("shop", a_link(number))
        assert (caught.value.expected, caught.value.current) == (number - 1, 1)
    assert await store.links("shop") == [a_link(1)]


async def test_a_write_whose_link_is_not_the_next_one_writes_nothing(store: Store) -> None:
    await store.append("shop", a_link(1))
    edit = MemberEdit(segment="beta", add=["u1"])
    for number in (1, 3):
        with pytest.raises(ChainMoved):
            await store.save("shop", document(1), record(1), [edit], a_link(number))
    assert await store.newest("shop") == (None, Tail(length=1, first=a_link(1), last=a_link(1)))
    assert await store.revisions() == {}
    assert await everybody(store, "shop", "beta") == []
    await store.save("shop", document(1), record(1), [edit], a_link(2))
    assert await store.links("shop", 1) == [a_link(2)]


async def test_a_lost_race_writes_no_link(store: Store) -> None:
    await store.save("shop", document(1), record(1), (), a_link(1))
    with pytest.raises(LostRace) as caught:
        await store.save("shop", document(1), record(1), (), a_link(2))
    assert not isinstance(caught.value, ChainMoved)
    assert await store.links("shop") == [a_link(1)]


async def test_every_chain_is_its_own(store: Store) -> None:
    keys = ["", *(name for name in AWKWARD_NAMES if name)]
    for key in keys:
        await store.append(key, a_link(1, key.encode().hex()))
    for key in keys:
        assert await store.links(key) == [a_link(1, key.encode().hex())]
    assert await store.revisions() == {}


STABLE = Served("shop", "r-1", Variant.STABLE)
CANARY = Served("shop", "r-1", Variant.CANARY)


def marks(first: int, last: int, release: str = "r-1") -> list[int]:
    return [mark("shop", release, f"u{number}") for number in range(first, last)]


async def test_users_are_counted_once_by_release_and_variant(store: Store) -> None:
    assert (await store.exposed(CANARY), await store.exposed_users(CANARY)) == (0, [])
    await store.expose(CANARY, marks(0, 5), False)
    await store.expose(CANARY, marks(3, 8), False)
    await store.expose(STABLE, marks(0, 2), False)
    await store.expose(STABLE._replace(service_key="支付{}"), marks(0, 1), False)
    assert [await store.exposed(served) for served in (CANARY, STABLE)] == [8, 2]
    assert await store.exposed(CANARY._replace(release_id="r-2")) == 0
    assert await store.exposed_users(CANARY) == []


@pytest.mark.parametrize("users", [100, 12_345, 200_000])
async def test_many_users_are_counted_closely_enough(store: Store, users: int) -> None:
    for first in range(0, users, 10_000):
        await store.expose(CANARY, marks(first, min(first + 10_000, users)), False)
    assert await store.exposed(CANARY) == pytest.approx(users, rel=0.03)


async def test_who_is_listed_when_it_is_wanted_and_while_there_is_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (memory_module, redis_module):
        monkeypatch.setattr(module, "MAX_LISTED", 3)
    await store.expose(CANARY, [7, 2**64 - 1], True)
    assert await store.exposed_users(CANARY) == ["0000000000000007", "f" * 16]
    await store.expose(CANARY, [8, 9, 10], True)
    assert len(await store.exposed_users(CANARY)) == 3
    assert await store.exposed(CANARY) == 5


async def test_a_caller_cannot_change_what_is_stored(store: Store) -> None:
    mine = document(1, rules=["a"])
    await store.save("shop", mine, record(1))
    mine["rules"].append("b")
    loaded = await store.load("shop")
    assert loaded is not None
    loaded["rules"].append("c")
    assert await store.load("shop") == document(1, rules=["a"])


async def test_changes_come_newest_first(store: Store) -> None:
    for revision in range(1, 13):
        await write(store, "shop", revision)
    assert await store.changes("shop") == [record(revision) for revision in range(12, 0, -1)]


@pytest.mark.parametrize(
    ("before", "limit", "expected"),
    [
        (None, 2, [5, 4]),
        (4, 50, [3, 2, 1]),
        (4, 2, [3, 2]),
        (6, 1, [5]),
        (99, 50, [5, 4, 3, 2, 1]),
        (1, 50, []),
        (0, 50, []),
        (-3, 50, []),
        (None, 0, []),
        (None, -1, []),
    ],
)
async def test_changes_are_paged_by_revision(
    store: Store, before: int | None, limit: int, expected: list[int]
) -> None:
    for revision in range(1, 6):
        await write(store, "shop", revision)
    found = await store.changes("shop", before, limit)
    assert [change.revision for change in found] == expected


async def test_a_writer_can_tell_their_own_write_from_anothers(store: Store) -> None:
    await store.save("shop", document(1), record(1, "ada"))
    assert await was_saved(store, "shop", record(1, "ada"))
    assert not await was_saved(store, "shop", record(1, "bob"))
    assert not await was_saved(store, "shop", record(2, "ada"))
    assert not await was_saved(store, "other", record(1, "ada"))


async def test_a_document_of_two_megabytes_is_kept(store: Store) -> None:
    text = "支付" * 350_000
    await write(store, "shop", 1, text=text)
    assert await store.load("shop") == document(1, text=text)


@pytest.mark.parametrize(
    "unwritable", [{1, 2}, float("nan"), "\ud800"], ids=["set", "NaN", "half a surrogate pair"]
)
async def test_a_document_that_is_not_json_is_refused(store: Store, unwritable: object) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        await write(store, "shop", 1, bad=unwritable)
    assert await store.revisions() == {}


async def test_a_reader_never_sees_part_of_a_write(open_store: Opens) -> None:
    writer, reader = open_store(), open_store()
    seen: set[int] = set()

    async def write_all() -> int:
        """The last revision, when the reader has seen many that were not the last."""
        for revision in count(1):
            edit = MemberEdit(segment="beta", drop=True, add=[f"u{revision}"])
            await write(writer, "shop", revision, [edit], copy=[revision] * 50)
            if revision >= 200 and len(seen) > 10:
                return revision
            await asyncio.sleep(0)
        raise AssertionError("it counts without end")

    async def read_all() -> None:
        while not writing.done() or writing.result() not in seen:
            revision = (await reader.revisions()).get("shop", 0)
            change = await reader.changes("shop", before=revision + 1, limit=1)
            then = await reader.load("shop", revision) if revision else None
            now = await reader.load("shop")
            if revision:
                assert then == document(revision, copy=[revision] * 50)
                assert change == [record(revision)]
                assert now is not None
                assert now["copy"] == [now["revision"]] * 50
                assert now["revision"] >= revision
                _, _, total = await reader.members("shop", "beta")
                assert total == 1
            seen.add(revision)
            await asyncio.sleep(0)

    async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as both:
        writing = both.create_task(write_all())
        both.create_task(read_all())


async def test_a_watcher_hears_that_it_listens_and_then_of_every_write(open_store: Opens) -> None:
    watched, other = open_store(), open_store()
    async with aclosing(watched.watch()) as announcements:
        assert await within_time(announcements) == ""
        for key in [name for name in AWKWARD_NAMES if name]:
            await write(other, key, 1)
            assert await within_time(announcements) == key


async def test_a_watcher_told_of_a_write_can_read_it(open_store: Opens) -> None:
    watched, other = open_store(), open_store()
    async with aclosing(watched.watch()) as announcements:
        await within_time(announcements)
        for revision in range(1, 21):
            await write(other, "shop", revision)
            key = await within_time(announcements)
            assert await watched.load(key) == document(revision)


async def test_a_lost_race_is_not_announced(open_store: Opens) -> None:
    watched, other = open_store(), open_store()
    async with aclosing(watched.watch()) as announcements:
        await within_time(announcements)
        with pytest.raises(LostRace):
            await write(other, "shop", 5)
        await write(other, "bakery", 1)
        assert await within_time(announcements) == "bakery"


async def test_every_watcher_hears_everything(open_store: Opens) -> None:
    store = open_store()
    async with aclosing(store.watch()) as one, aclosing(open_store().watch()) as two:
        assert [await within_time(one), await within_time(two)] == ["", ""]
        await write(store, "shop", 1)
        assert [await within_time(one), await within_time(two)] == ["shop", "shop"]


async def test_a_cancelled_watch_ends_and_leaves_the_store_working(store: Store) -> None:
    listening = asyncio.Event()

    async def watch() -> None:
        async with aclosing(store.watch()) as announcements:
            async for _ in announcements:
                listening.set()

    for revision in range(1, 6):
        watching = asyncio.create_task(watch())
        async with asyncio.timeout(WITHIN_S):
            await listening.wait()
        watching.cancel()
        assert (await asyncio.gather(watching, return_exceptions=True))[0].__class__ is (
            asyncio.CancelledError
        )
        listening.clear()
        await write(store, "shop", revision)


async def test_members_are_added_and_removed_with_the_write(store: Store) -> None:
    await write(store, "shop", 1, [MemberEdit(segment="beta", add=["u1", "u2", "u2"])])
    await write(
        store,
        "shop",
        2,
        [
            MemberEdit(segment="beta", add=["u3"], remove=["u1", "nobody"]),
            MemberEdit(segment="测试者", add=["u1"]),
        ],
    )
    assert sorted(await everybody(store, "shop", "beta")) == ["u2", "u3"]
    both = ["beta", "测试者", "unheard of"]
    assert await store.listed_in("shop", "u1", both) == {"测试者"}
    assert await store.listed_in("shop", "u3", both) == {"beta"}
    assert await store.listed_in("shop", "u3", []) == frozenset()
    assert await store.listed_in("bakery", "u3", both) == frozenset()


async def test_a_lost_race_leaves_members_as_they_are(store: Store) -> None:
    await write(store, "shop", 1, [MemberEdit(segment="beta", add=["u1"])])
    with pytest.raises(LostRace):
        await write(store, "shop", 1, [MemberEdit(segment="beta", add=["u2"], remove=["u1"])])
    with pytest.raises(LostRace):
        await write(store, "shop", 3, [MemberEdit(segment="beta", drop=True)])
    assert await everybody(store, "shop", "beta") == ["u1"]


async def test_a_dropped_segment_lists_nobody(store: Store) -> None:
    await write(store, "shop", 1, [MemberEdit(segment="beta", add=["u1", "u2"])])
    await write(store, "shop", 2, [MemberEdit(segment="beta", drop=True)])
    assert await store.members("shop", "beta") == ([], "", 0)
    assert await store.listed_in("shop", "u1", ["beta"]) == frozenset()


async def test_an_edit_drops_then_adds_then_removes(store: Store) -> None:
    await write(store, "shop", 1, [MemberEdit(segment="beta", add=["old"])])
    edit = MemberEdit(segment="beta", drop=True, add=["new", "both"], remove=["both"])
    await write(store, "shop", 2, [edit])
    assert await everybody(store, "shop", "beta") == ["new"]


async def test_edits_of_one_segment_apply_in_order(store: Store) -> None:
    edits = [
        MemberEdit(segment="beta", add=["u1", "u2"]),
        MemberEdit(segment="beta", drop=True),
        MemberEdit(segment="beta", add=["u3"]),
    ]
    await write(store, "shop", 1, edits)
    assert await everybody(store, "shop", "beta") == ["u3"]


async def test_ten_thousand_members_are_edited_in_one_write(store: Store) -> None:
    users = [f"用户-{number}" for number in range(10_000)]
    await write(store, "shop", 1, [MemberEdit(segment="beta", add=users)])
    assert (await store.members("shop", "beta"))[2] == 10_000
    assert await store.listed_in("shop", users[-1], ["beta"]) == {"beta"}
    await write(store, "shop", 2, [MemberEdit(segment="beta", remove=users[1:])])
    assert await everybody(store, "shop", "beta") == users[:1]


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 8000, 8001, 25_000])
async def test_paging_lists_everybody_exactly_once(store: Store, size: int) -> None:
    users = [f"u{number}" for number in range(size)]
    await write(store, "shop", 1, [MemberEdit(segment="beta", add=users)])
    assert sorted(await everybody(store, "shop", "beta")) == sorted(users)


async def test_a_large_segment_does_not_come_in_one_page(store: Store) -> None:
    users = [f"u{number}" for number in range(10_000)]
    await write(store, "shop", 1, [MemberEdit(segment="beta", add=users)])
    page, cursor, total = await store.members("shop", "beta")
    assert 0 < len(page) < 2000
    assert cursor != ""
    assert total == 10_000


@pytest.mark.parametrize(
    "profile",
    [
        Profile(),
        Profile(tier="premium"),
        Profile(
            tier="企业",
            registered_at=datetime(
                2024, 5, 1, 8, 30, 15, 999999, tzinfo=timezone(-3 * timedelta(hours=1))
            ),
            region="eu-west",
            tags=frozenset({"alpha-tester", "测试者", ""}),
            custom={"plan": "年付", "": "empty", "seats": "12"},
        ),
    ],
    ids=["empty", "tier only", "everything"],
)
async def test_a_profile_comes_back_as_it_was_put(open_store: Opens, profile: Profile) -> None:
    await open_store().put_profile("用户{1}", profile)
    found = await open_store().profile("用户{1}")
    assert found == profile
    assert found is not None
    assert _offset(found) == _offset(profile)


def _offset(profile: Profile) -> timedelta | None:
    return profile.registered_at.utcoffset() if profile.registered_at else None


async def test_a_profile_is_replaced_whole(store: Store) -> None:
    await store.put_profile("u1", Profile(tier="premium", region="eu", custom={"a": "b"}))
    await store.put_profile("u1", Profile(region="us"))
    assert await store.profile("u1") == Profile(region="us")
    assert await store.profile("u2") is None


async def test_a_forgotten_profile_is_absent(store: Store) -> None:
    await store.put_profile("u1", Profile(tier="premium"))
    await store.put_profile("u1", None)
    await store.put_profile("never heard of", None)
    assert await store.profile("u1") is None


async def test_watchers_of_profiles_hear_of_every_change(open_store: Opens) -> None:
    watched, other = open_store(), open_store()
    async with aclosing(watched.watch_profiles()) as announcements:
        assert await within_time(announcements) == ""
        await other.put_profile("用户", Profile(tier="premium"))
        assert await within_time(announcements) == "用户"
        await write(other, "shop", 1)
        await other.put_profile("u2", None)
        assert await within_time(announcements) == "u2"
