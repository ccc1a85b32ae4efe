"""Editor, snapshot, baselines and status texts, each alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from canary_engine import parse
from canary_engine.errors import InvalidPolicy
from canary_engine.model import Policy
from decision_svc import baselines as baselines_module
from decision_svc import changes
from decision_svc import snapshot as snapshot_module
from decision_svc.baselines import Baselines
from decision_svc.editor import Editor, Who
from decision_svc.errors import NotReady
from decision_svc.metrics import Metrics
from decision_svc.rpc.errors import status_of
from decision_svc.snapshot import Snapshot
from decision_svc.store.memory import MemoryStore
from decision_svc.store.protocol import (
    ChangeRecord,
    Document,
    Link,
    LostRace,
    MemberEdit,
    StoreUnavailable,
)

WHO = Who(actor="ada", reason="a test")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Forgetful(MemoryStore):
    """Loses the answers to the next saves, before or after they are done."""

    def __init__(self, *losses: str) -> None:
        super().__init__()
        self.losses = list(losses)

    async def save(
        self,
        service_key: str,
        document: Document,
        record: ChangeRecord,
        members: Sequence[MemberEdit] = (),
        link: Link | None = None,
        current: int | None = None,
    ) -> None:
        loss = self.losses.pop(0) if self.losses else ""
        if loss == "before":
            raise StoreUnavailable("no answer")
        if loss == "to another":
            other = replace(record, actor="bob")
            await super().save(service_key, document, other, (), link, current)
            raise StoreUnavailable("no answer")
        await super().save(service_key, document, record, members, link, current)
        if loss == "after":
            raise StoreUnavailable("no answer")


def editor_of(store: MemoryStore) -> Editor:
    return Editor(store, Snapshot(), Metrics(), clock=lambda: NOW, new_id=lambda: "1")


async def add(editor: Editor, version: str, expected: int | None = None) -> int:
    edit = changes.register_version({"version": version})
    return await editor.change("shop", expected, WHO, f"register {version}", edit)


@pytest.mark.parametrize("loss", ["before", "after"])
@pytest.mark.parametrize("expected", [None, 0])
async def test_a_write_whose_answer_was_lost_is_made_exactly_once(
    loss: str, expected: int | None
) -> None:
    store = Forgetful(loss)
    assert await add(editor_of(store), "v1", expected) == 1
    assert [record.actor for record in await store.changes("shop")] == ["ada"]


async def test_a_lost_answer_is_not_taken_for_success_when_another_writer_was_first() -> None:
    store = Forgetful("to another")
    with pytest.raises(LostRace):
        await add(editor_of(store), "v1", 0)
    assert [record.actor for record in await store.changes("shop")] == ["bob"]


async def test_a_store_that_stays_away_is_said_to_be_unavailable() -> None:
    store = Forgetful("before", "before")
    with pytest.raises(StoreUnavailable):
        await add(editor_of(store), "v1")
    assert await store.revisions() == {}


async def test_a_segment_put_again_as_it_is_makes_no_revision_and_forgets_no_membership() -> None:
    editor = editor_of(MemoryStore())
    segment = {"name": "early", "listed": True, "canary_eligible": True, "percentage": 5.0}
    for _ in range(3):
        edit = changes.put_segment(segment)
        assert await editor.change("shop", None, WHO, "put", edit) == 1


# Snapshot


def a_policy(service_key: str, revision: int = 1) -> Policy:
    return Policy(service_key=service_key, revision=revision)


def a_snapshot(*service_keys: str) -> Snapshot:
    snapshot = Snapshot()
    for service_key in service_keys:
        snapshot.put(a_policy(service_key))
    snapshot.set_loaded()
    return snapshot


def test_nothing_rules_before_the_store_was_read() -> None:
    with pytest.raises(NotReady):
        Snapshot().ruling("shop", None, "")


def test_service_keys_that_clients_make_up_are_not_remembered() -> None:
    snapshot = a_snapshot("shop")
    _, compiled = snapshot.ruling("shop", None, "")
    for number in range(snapshot_module.MAX_COMPILED + 1):
        snapshot.ruling(f"made up {number}", None, "")
    assert snapshot.ruling("shop", None, "")[1] is compiled
    assert len(snapshot._compiled) == 1


def test_of_too_many_compiled_policies_the_least_recently_used_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot_module, "MAX_COMPILED", 2)
    snapshot = a_snapshot("a", "b", "c")
    first = {key: snapshot.ruling(key, None, "")[1] for key in ("a", "b")}
    snapshot.ruling("a", None, "")
    snapshot.ruling("c", None, "")
    assert snapshot.ruling("a", None, "")[1] is first["a"]
    assert snapshot.ruling("b", None, "")[1] is not first["b"]


async def test_what_changes_while_a_watcher_is_busy_is_told_once_when_its_turn_comes() -> None:
    snapshot = a_snapshot("a", "b")
    with snapshot.watching(["a", "b"]) as watcher:
        told = aiter(watcher)
        assert await anext(told) == "a"
        for revision in (2, 3, 4):
            snapshot.put(a_policy("b", revision))
        assert await anext(told) == "b"
        waiting = asyncio.ensure_future(anext(told))
        await asyncio.sleep(0)
        assert not waiting.done()
        snapshot.put(a_policy("a", 2))
        assert await waiting == "a"


# Baselines


def declared(service_key: str) -> tuple[str, dict[str, Any]]:
    document = parse.document(parse.policy({"service_key": service_key}))
    return parse.content_hash(document), document


def test_of_too_many_baselines_the_least_recently_used_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines_module, "MAX_BASELINES", 2)
    baselines = Baselines()
    known = {name: declared(name) for name in "abc"}
    for name in "ab":
        baselines.learn(*known[name])
    assert baselines.get(known["a"][0]) is not None
    baselines.learn(*known["c"])
    assert [name for name in "abc" if baselines.get(known[name][0])] == ["a", "c"]


# Status texts


@pytest.mark.parametrize("text", ["x", "规则", "%", "\n", "😀", "é x"])
def test_a_status_text_fits_into_a_header_however_it_is_written(text: str) -> None:
    _, details = status_of(InvalidPolicy([text * 20_000, "b"]))
    assert details.startswith(f"2 problems: {text}")
    assert len(quote(details, safe=" ")) < 5_000


def test_a_short_status_text_is_left_as_it_is() -> None:
    assert status_of(InvalidPolicy(["规则: 错"]))[1] == "规则: 错"
