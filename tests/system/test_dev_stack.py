"""Two stacks do not get in each other's way: one at a time in a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dev_stack.demo import get
from dev_stack.processes import NotReady
from dev_stack.stack import CANARY, Plan, Stack
from support.admin import admin_of
from support.stack import until_heard


@pytest.fixture
def folder() -> Iterator[Path]:
    """Of a short name: sockets stand in it, whose paths hold 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="dev-") as name:
        yield Path(name)


def test_a_second_stack_in_a_folder_is_refused_and_does_the_first_one_no_harm(
    folder: Path,
) -> None:
    with Stack(Plan(run_dir=folder)) as first:
        before = sorted(path.name for path in folder.iterdir())
        with (
            pytest.raises(NotReady, match=f"there is one running in {folder}"),
            Stack(Plan(run_dir=folder)),
        ):
            pass
        assert sorted(path.name for path in folder.iterdir()) == before
        assert first.redis_socket.is_socket()
        with admin_of(first.admin_address) as admin:
            admin.release(5)
        assert get(first.gateway.address, {"x-canary-test": "true"})[0] == 200
    with Stack(Plan(run_dir=folder)) as again:
        until_heard(again)
        assert get(again.gateway.address, {"x-canary-test": "true"}) == (200, CANARY)
