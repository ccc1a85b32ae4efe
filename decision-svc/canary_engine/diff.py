"""What differs between two documents of a policy, each difference with its path.

Things in lists are the same where their names are, wherever they stand, so that a path stays
readable: ``segments[beta].percentage``. Texts in lists are their own names; what has none is told
by its place: ``plan.steps[0].hold``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

UNSEEN = frozenset({"revision", "membership_epoch"})
"""Fields that count what happened, and say nothing themselves."""

_NAMED_BY = ("name", "version", "id", "from")


class Difference(NamedTuple):
    """One difference; before and after are JSON, "" for nothing."""

    path: str
    before: str
    after: str


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], unseen: frozenset[str] = UNSEEN
) -> list[Difference]:
    """All differences between two documents, in the order of the fields; ``unseen`` are paths."""
    found = _of_mappings(before, after, "")
    return [difference for difference in found if difference.path not in unseen]


def _of_mappings(
    before: Mapping[str, Any], after: Mapping[str, Any], path: str
) -> Iterator[Difference]:
    for name in dict.fromkeys([*before, *after]):
        where = f"{path}.{name}" if path else str(name)
        yield from _of_values(before.get(name), after.get(name), where)


def _of_values(before: Any, after: Any, path: str) -> Iterator[Difference]:
    if before == after:
        return
    if isinstance(before or after, Mapping) and isinstance(after or before, Mapping):
        yield from _of_mappings(before or {}, after or {}, path)
    elif _is_list(before or after) and _is_list(after or before):
        yield from _of_lists(before or [], after or [], path)
    else:
        yield Difference(path, _json(before), _json(after))


def _of_lists(before: Sequence[Any], after: Sequence[Any], path: str) -> Iterator[Difference]:
    old, new = _by_name(before), _by_name(after)
    if old is None or new is None:
        yield from _in_order(before, after, path)
        return
    for name in dict.fromkeys([*old, *new]):
        where = f"{path}[{name}]"
        if name in old and name in new:
            yield from _of_values(old[name], new[name], where)
        else:
            yield Difference(where, _json(old.get(name)), _json(new.get(name)))
    was, is_now = ([n for n in order if n in old and n in new] for order in (old, new))
    if was != is_now:
        yield Difference(f"{path} (order)", _json(list(old)), _json(list(new)))


def _in_order(before: Sequence[Any], after: Sequence[Any], path: str) -> Iterator[Difference]:
    """Differences of lists whose things have no names: place by place."""
    for index, (old, new) in enumerate(zip_longest(before, after)):
        yield from _of_values(old, new, f"{path}[{index}]")


def _by_name(items: Sequence[Any]) -> dict[str, Any] | None:
    """The items by what they are called; None if that does not tell them apart."""
    found: dict[str, Any] = {}
    for item in items:
        name = _name(item)
        if name is None or name in found:
            return None
        found[name] = item
    return found


def _name(item: Any) -> str | None:
    if isinstance(item, str):
        return item
    if not isinstance(item, Mapping):
        return None
    name = next((str(item[field]) for field in _NAMED_BY if field in item), None)
    # A compatibility rule is told by both of its ends.
    return f"{name} to {item['to']}" if "from" in item and "to" in item else name


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
