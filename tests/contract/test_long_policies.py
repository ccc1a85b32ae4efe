"""A change to a policy with 10,000 versions costs what changes, and lets decisions through."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from types import FrameType

import pytest
from canary_engine import parse
from canary_engine.decide import decide
from canary_engine.model import NOBODY, Decision, Request, Strategy
from canary_engine.release import Move
from decision_svc import changes
from decision_svc.changes import Edit
from decision_svc.editor import Editor, Who
from decision_svc.metrics import Metrics
from decision_svc.snapshot import Snapshot
from decision_svc.store.memory import MemoryStore
from decision_svc.store.pieces import PIECE
from decision_svc.store.redis import RedisStore

Store = MemoryStore | RedisStore
NOW = datetime(2026, 3, 1, tzinfo=UTC)
WHO = Who(actor="ada", reason="a test")
MANY, FEW = 10_000, 100
RULE = {"name": "r", "source": "header", "key": "x-test", "exact": "1", "variant": "canary"}
EDITS: dict[str, Callable[[Editor], Edit]] = {
    "percentage": lambda editor: editor.set_percentage(50_000),
    "rules": lambda _: changes.replace("rules", [RULE]),
    "register": lambda _: changes.register_version({"version": "new"}),
    "deprecate": lambda _: changes.deprecate_version("v7"),
    "remove": lambda _: changes.remove_version("v7"),
    "halt": lambda editor: editor.move_release(Move.HALT),
}


async def ready(store: Store, versions: int) -> tuple[Editor, Snapshot]:
    """An editor of a policy with that many versions, which it has changed before."""
    numbers, snapshot = count(), Snapshot()
    snapshot.set_loaded()
    editor = Editor(
        store, snapshot, Metrics(), clock=lambda: NOW, new_id=lambda: f"{next(numbers)}"
    )
    stable = {"version": "v0", "status": "stable"}
    all_of_them = [stable, *({"version": f"v{n}", "build_number": "1"} for n in range(1, versions))]
    await change(editor, changes.replace("versions", all_of_them))
    await change(editor, editor.start_release("v1", 10_000, Strategy.COMBINED, "salt"))
    return editor, snapshot


async def change(editor: Editor, edit: Edit) -> int:
    return await editor.change("shop", None, WHO, "a test", edit)


async def calls_during(work: Awaitable[int]) -> int:
    """How many Python functions were called until it was done."""
    calls = 0

    def called(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(called)
    try:
        await work
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("name", EDITS)
async def test_a_change_works_no_more_for_more_versions(name: str) -> None:
    work = []
    for versions in (FEW, MANY):
        editor, _ = await ready(MemoryStore(), versions)
        work.append(await calls_during(change(editor, EDITS[name](editor))))
    few, many = work
    # Pieces of what is written count, 250 versions each; a call for each version does not pass.
    assert many - few < MANY / 2


@pytest.mark.parametrize("name", EDITS)
async def test_decisions_are_answered_while_a_change_is_made(store: Store, name: str) -> None:
    editor, snapshot = await ready(store, MANY)
    request = Request(headers={"x-user-id": "ann"})
    changing = asyncio.create_task(change(editor, EDITS[name](editor)))
    revisions: list[int] = []
    while not changing.done():
        _, compiled = snapshot.ruling("shop", None, "")
        decision = decide(compiled, request, NOBODY, NOW)
        assert isinstance(decision, Decision)
        revisions.append(decision.policy_revision)
        await asyncio.sleep(0)
    assert await changing == 3
    # Once for every piece of the document that is hashed, and of that which is stored.
    assert revisions.count(2) >= 2 * MANY // PIECE


@pytest.mark.parametrize("name", EDITS)
async def test_what_is_stored_is_the_same_document_whole(store: Store, name: str) -> None:
    editor, snapshot = await ready(store, FEW * 5)
    await change(editor, EDITS[name](editor))
    document = await store.load("shop")
    assert document is not None
    assert parse.policy(document) == snapshot.get("shop")
    (link,) = await store.links("shop", after=2)
    hash_ = sha256(parse.canonical(document)).hexdigest()
    assert f'"document":"{hash_}"' in link.entry


async def test_a_policy_that_another_replica_changed_is_followed(store: Store) -> None:
    editor, snapshot = await ready(store, FEW * 5)
    other = Snapshot()
    for edit in (changes.deprecate_version("v9"), changes.remove_version("v8")):
        document = await store.load("shop")
        assert document is not None
        assert other.documents.read("shop", document).policy == snapshot.get("shop")
        await change(editor, edit)
