"""Does the same for many releases, so that what goes wrong with one keeps no other from it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from canary_controller.errors import LostRace, Unreachable


class Keyed(Protocol):
    """Whatever is of one service key."""

    @property
    def service_key(self) -> str:
        """Which one."""
        ...


Item = TypeVar("Item", bound=Keyed)


class Each:
    """``most_at_once`` are seen to at a time; mistakes are kept until somebody owns up to them."""

    def __init__(self, most_at_once: int) -> None:
        self._places = asyncio.Semaphore(most_at_once)
        self._mistakes: list[Exception] = []

    async def __call__(self, items: Iterable[Item], do: Callable[[Item], Awaitable[None]]) -> None:
        """Do it for all."""

        async def one(item: Item) -> None:
            async with self._places:
                try:
                    await do(item)
                except (LostRace, Unreachable):
                    pass  # the next tick looks again
                except Exception as error:
                    error.add_note(f"service key: {item.service_key}")
                    self._mistakes.append(error)

        await asyncio.gather(*map(one, items))

    def own_up(self) -> None:
        """Raise ExceptionGroup with what went wrong, now that all others were seen to."""
        mistakes, self._mistakes = self._mistakes, []
        if mistakes:
            raise ExceptionGroup("not every release is seen to", mistakes)
