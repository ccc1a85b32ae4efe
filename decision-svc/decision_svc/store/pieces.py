"""Writes a long document piece by piece, so that others have their turn in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from decision_svc.store.protocol import Document

PIECE = 250
"""How many items of a list are written at once."""


async def in_pieces(document: Document, write: Callable[[Any], bytes]) -> bytes:
    """``write(document)``, which writes compact JSON with sorted keys.

    Nobody may change the document meanwhile. One without a long list is written at once.
    """
    if not any(map(_is_long, document.values())):
        return write(document)
    fields = []
    for name, value in sorted(document.items()):
        written = await _long(value, write) if _is_long(value) else write(value)
        fields.append(write(name) + b":" + written)
    return b"{" + b",".join(fields) + b"}"


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > PIECE


async def _long(items: list[Any], write: Callable[[Any], bytes]) -> bytes:
    pieces = []
    for start in range(0, len(items), PIECE):
        pieces.append(write(items[start : start + PIECE])[1:-1])
        await asyncio.sleep(0)
    return b"[" + b",".join(pieces) + b"]"
