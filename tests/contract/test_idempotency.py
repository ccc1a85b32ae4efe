"""A request that is sent again under its idempotency key is done once, over every store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from decision_svc import changes
from decision_svc import editor as editor_module
from decision_svc.editor import Editor, Who
from decision_svc.errors import AlreadyExists, BadRequest
from decision_svc.metrics import Metrics
from decision_svc.snapshot import Snapshot
from decision_svc.store.memory import MemoryStore
from decision_svc.store.protocol import LostRace, StoreUnavailable
from decision_svc.store.redis import RedisStore

Store = MemoryStore | RedisStore
NOW = datetime(2026, 3, 1, tzinfo=UTC)
WHO = Who(actor="ada", reason="a test", key="deploy-7", digest="d1")


def editor_of(store: Any) -> Editor:
    numbers = count()
    return Editor(
        store, Snapshot(), Metrics(), clock=lambda: NOW, new_id=lambda: f"{next(numbers)}"
    )


async def register(
    editor: Editor, version: str, who: Who = WHO, expected: int | None = None
) -> int:
    edit = changes.register_version({"version": version})
    return await editor.change("shop", expected, who, f"register {version}", edit)


class Losing:
    """A store that loses the answers to saves that it has done."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_silent = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def save(self, *args: Any) -> None:
        if self.is_silent:
            raise StoreUnavailable("no answer")
        await self._store.save(*args)
        self.is_silent = True
        raise StoreUnavailable("no answer")


async def test_a_request_that_is_sent_again_is_answered_the_same_revision(store: Store) -> None:
    editor = editor_of(store)
    assert await register(editor, "v1") == 1
    assert await register(editor, "v2", replace(WHO, key="deploy-8", digest="d2")) == 2
    assert await register(editor, "v1") == 1
    assert await store.revisions() == {"shop": 2}
    assert len(await store.links("shop")) == 2


async def test_what_was_undone_meanwhile_is_not_done_again(store: Store) -> None:
    editor = editor_of(store)
    await register(editor, "v1")
    other = Who(actor="bob", reason="no")
    await editor.change("shop", None, other, "remove", changes.remove_version("v1"))
    assert await register(editor, "v1") == 1
    document = await store.load("shop")
    assert document is not None
    assert "versions" not in document


async def test_another_request_under_the_same_key_is_refused(store: Store) -> None:
    editor = editor_of(store)
    await register(editor, "v1")
    with pytest.raises(AlreadyExists, match=r"'deploy-7' was given to another change.*revision 1"):
        await register(editor, "v2", replace(WHO, digest="d2"))
    assert await store.revisions() == {"shop": 1}


async def test_a_key_belongs_to_its_service_key(store: Store) -> None:
    editor = editor_of(store)
    await register(editor, "v1")
    edit = changes.register_version({"version": "v1"})
    assert await editor.change("bakery", None, WHO, "register", edit) == 1
    assert await store.revisions() == {"shop": 1, "bakery": 1}


async def test_duplicates_at_the_same_time_make_one_revision(
    open_store: Callable[[], Store],
) -> None:
    stores = [open_store() for _ in range(8)]
    found = await asyncio.gather(*(register(editor_of(store), "v1") for store in stores))
    assert found == [1] * 8
    assert await stores[0].revisions() == {"shop": 1}
    assert len(await stores[0].links("shop")) == 1


async def test_duplicates_that_expect_a_revision_are_all_answered(
    open_store: Callable[[], Store],
) -> None:
    stores = [open_store() for _ in range(8)]
    found = await asyncio.gather(
        *(register(editor_of(store), "v1", expected=0) for store in stores)
    )
    assert found == [1] * 8
    with pytest.raises(LostRace):
        await register(editor_of(stores[0]), "v2", replace(WHO, key="deploy-8"), expected=0)


async def test_a_request_whose_answer_was_lost_is_sent_again_in_vain(store: Store) -> None:
    losing = Losing(store)
    with pytest.raises(StoreUnavailable):
        await register(editor_of(losing), "v1", expected=0)
    assert await store.revisions() == {"shop": 1}
    assert await register(editor_of(store), "v1", expected=0) == 1
    assert await store.revisions() == {"shop": 1}


async def test_a_key_is_looked_for_in_the_latest_changes_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editor_module, "LOOKED_THROUGH", 3)
    editor = editor_of(store)
    await register(editor, "v1")
    for number in (2, 3):
        await register(editor, f"v{number}", Who(actor="bob", reason="more"))
    assert await register(editor, "v1") == 1
    await register(editor, "v4", Who(actor="bob", reason="more"))
    assert await register(editor, "v5", replace(WHO, digest="d2")) == 5


async def test_a_key_that_is_too_long_is_refused(store: Store) -> None:
    with pytest.raises(BadRequest, match="idempotency_key: at most 128"):
        await register(editor_of(store), "v1", replace(WHO, key="k" * 129))
