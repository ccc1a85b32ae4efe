"""Two stacks do not get in each other's way: one at a time in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from dev_stack.demo import get
from dev_stack.processes import NotReady
from dev_stack.stack import CANARY, Plan, Stack
from support.admin import admin_of


def test_a_second_stack_in_a_folder_is_refused_and_does_the_first_one_no_harm(
    tmp_path: Path,
) -> None:
    with Stack(Plan(run_dir=tmp_path)) as first:
        before = sorted(path.name for path in tmp_path.iterdir())
        with (
            pytest.raises(NotReady, match=f"there is one running in {tmp_path}"),
            Stack(Plan(run_dir=tmp_path)),
        ):
            pass
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        assert first.redis_socket.is_socket()
        with admin_of(first.admin_address) as admin:
            admin.release(5)
        assert get(first.gateway.address, {"x-canary-test": "true"})[0] == 200
    with Stack(Plan(run_dir=tmp_path)) as again:
        assert get(again.gateway.address, {"x-canary-test": "true"}) == (200, CANARY)
