"""A clock that tests set, near the real one."""

from __future__ import annotations

import time


class Clock:
    """Unix time that goes on when a test says so; near the real one, by which Redis forgets."""

    def __init__(self) -> None:
        # The middle of a slot and of a minute: what lies seconds away may be in the same one.
        self.now = time.time() // 60 * 60 + 5.0

    def __call__(self) -> float:
        return self.now
