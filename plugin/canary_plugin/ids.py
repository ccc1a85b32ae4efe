"""Random ids that nobody can guess, from a stock: the kernel is asked once for many."""

from __future__ import annotations

import os

STOCK = 256


class Ids:
    """Ids of ``size`` random bytes each, hexadecimal."""

    def __init__(self, size: int) -> None:
        self._digits = 2 * size
        self._stock = ""
        self._at = 0

    def __call__(self) -> str:
        """A fresh id."""
        begins, ends = self._at, self._at + self._digits
        if ends > len(self._stock):
            self._stock = os.urandom(STOCK * self._digits // 2).hex()
            begins, ends = 0, self._digits
        self._at = ends
        return self._stock[begins:ends]
