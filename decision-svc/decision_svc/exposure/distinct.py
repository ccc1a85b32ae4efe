"""Counts distinct marks in bounded memory: HyperLogLog, as Redis has it.

A mark falls into one of 2**14 registers by its lower bits; the register keeps the longest run
of leading zeros that the rest of a mark had. Registers that stay empty count few users better
than runs do, up to 2.5 users a register.

Source: P. Flajolet and others, "HyperLogLog: the analysis of a near-optimal cardinality
estimation algorithm" (2007), without the correction for 32-bit hashes, which 64 bits need not.
"""

from __future__ import annotations

from math import log

_BITS = 14
_REGISTERS = 1 << _BITS
_REST = 64 - _BITS
_ALPHA = 0.7213 / (1 + 1.079 / _REGISTERS)


class Distinct:
    """A count of distinct 64-bit marks, right within 1 % for most numbers; 16 KiB."""

    __slots__ = ("_longest",)

    def __init__(self) -> None:
        self._longest = bytearray(_REGISTERS)

    def add(self, mark: int) -> None:
        """Count a mark, once."""
        register, rest = mark & (_REGISTERS - 1), mark >> _BITS
        self._longest[register] = max(self._longest[register], _REST - rest.bit_length() + 1)

    def count(self) -> int:
        """About how many there were."""
        empty = self._longest.count(0)
        estimate = _ALPHA * _REGISTERS**2 / sum(2.0**-run for run in self._longest)
        if empty and estimate <= 2.5 * _REGISTERS:
            estimate = _REGISTERS * log(_REGISTERS / empty)
        return round(estimate)
