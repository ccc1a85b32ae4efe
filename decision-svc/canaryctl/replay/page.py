"""What a replay found, for people and for scripts; no user is named unless it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from canary_engine.model import Variant

from canaryctl import render
from canaryctl.replay.tally import SAMPLE, Tally, Way, Why

WAYS: tuple[tuple[Way, str], ...] = (
    ((False, True), "stable -> canary"),
    ((True, False), "canary -> stable"),
    ((False, False), "stays stable"),
    ((True, True), "stays canary"),
)
HASH_DIGITS = 16


def document(tally: Tally, elapsed_s: float, *, show_users: bool) -> dict[str, Any]:
    """The whole result."""
    total = sum(tally.pairs.values())
    found = tally.found
    moved = [
        {
            "way": words.replace(" -> ", "-to-").replace(" ", "-"),
            "requests": count,
            "percentage": _share(count, total),
            "users": len(tally.users.get(way, ())),
        }
        for way, words in WAYS
        for count in [_count(tally, way)]
    ]
    return {
        "lines": found.lines,
        "bad_lines": found.bad,
        **_first_bad(tally),
        "lines_of_other_services": found.of_others,
        "formats": sorted(found.formats),
        "requests": total,
        "needing_the_store": tally.unknown,
        "moved": moved,
        "now": _sides(tally, total, 0),
        "proposed": _sides(tally, total, 1),
        "segments": _segments(tally, total),
        "movers": {
            words.replace(" -> ", "-to-"): list(_movers(tally, way, show_users=show_users))
            for way, words in WAYS[:2]
            if way in tally.movers
        },
        "seconds": round(elapsed_s, 3),
        "lines_per_second": round(found.lines / elapsed_s) if elapsed_s else 0,
    }


def page(result: dict[str, Any], *, show_users: bool) -> Iterator[str]:
    """The same as tables."""
    speed = f"{result['seconds']:.1f} s, {result['lines_per_second']:,} lines/s"
    read = [f"{result['lines']:,} lines ({', '.join(result['formats'])}), {speed}"]
    if result["bad_lines"]:
        first = result["first_bad_line"]
        counted = render.counted(result["bad_lines"], "line")
        where = render.cell(f"line {first['line']:,} of {first['file']}")
        read.append(f"{counted} could not be read, the first is {where}")
    if result["lines_of_other_services"]:
        read.append(f"{result['lines_of_other_services']:,} lines are about other services")
    if result["needing_the_store"]:
        share = render.percent(_share(result["needing_the_store"], result["requests"]))
        read.append(
            f"{result['needing_the_store']:,} requests ({share}) are of users whose stored profile "
            "and listed segments count, and no log holds them:\nthese users were decided as if "
            "they had neither. A log as JSON lines may name them (person)"
        )
    yield "\n".join(read)
    rows = [
        (row["way"].replace("-to-", " -> ").replace("stays-", "stays "),
         f"{row['requests']:,}", render.percent(row["percentage"]), f"about {row['users']:,}")
        for row in result["moved"]
    ]  # fmt: skip
    yield "who moves\n" + render.table(("way", "requests", "share", "users"), rows)
    for side in ("now", "proposed"):
        decided = [
            (d["variant"], d["reason"], d.get("matched", ""), f"{d['requests']:,}",
             render.percent(d["percentage"]))
            for d in result[side]
        ]  # fmt: skip
        yield render.section(side, ("variant", "reason", "matched", "requests", "share"), decided)
    if result["segments"]:
        yield _segments_page(result["segments"])
    for way, users in result["movers"].items():
        kind = "users" if show_users else "users, hashed"
        lines = [f"{way.replace('-to-', ' -> ')}, {kind} (at most {SAMPLE} of them):"]
        yield "\n".join([*lines, *(f"  {render.cell(user)}" for user in users)])


def _first_bad(tally: Tally) -> dict[str, Any]:
    if tally.found.first_bad is None:
        return {}
    file, line = tally.found.first_bad
    return {"first_bad_line": {"file": file, "line": line}}


def _count(tally: Tally, way: Way) -> int:
    return sum(
        count
        for (old, new), count in tally.pairs.items()
        if (old.variant is Variant.CANARY, new.variant is Variant.CANARY) == way
    )


def _sides(tally: Tally, total: int, side: int) -> list[dict[str, Any]]:
    """What one of the policies decides by, the most frequent first."""
    counts: dict[Why, int] = {}
    for pair, count in tally.pairs.items():
        counts[pair[side]] = counts.get(pair[side], 0) + count
    rows = []
    for why, count in sorted(counts.items(), key=lambda item: (-item[1], item[0].matched)):
        row = {"variant": str(why.variant), "reason": str(why.reason), "matched": why.matched}
        rows.append({**row, "requests": count, "percentage": _share(count, total)})
    return [{name: value for name, value in row.items() if value != ""} for row in rows]


def _segments(tally: Tally, total: int) -> list[dict[str, Any]]:
    """Of each segment's members, whatever decided, what share gets the canary.

    Users who are in several count in each; those in none come last, without a name.
    """
    return [
        {
            **({"segment": name} if name else {}),
            "requests": found.requests,
            "percentage": _share(found.requests, total),
            "now": _share(found.now, found.requests),
            "proposed": _share(found.proposed, found.requests),
        }
        for name, found in sorted(tally.segments.items(), key=lambda item: (not item[0], item[0]))
    ]


def _segments_page(segments: list[dict[str, Any]]) -> str:
    rows = [
        (
            row.get("segment", "(in none)"),
            f"{row['requests']:,}",
            *(render.percent(row[name]) for name in ("percentage", "now", "proposed")),
        )
        for row in segments
    ]
    headings = ("segment", "requests", "of all", "canary now", "canary proposed")
    return "canary by segment\n" + render.table(headings, rows)


def _share(count: int, total: int) -> float:
    return round(100 * count / total, 3) if total else 0.0


def _movers(tally: Tally, way: Way, *, show_users: bool) -> Iterator[str]:
    kept = tally.movers[way]
    for hashed in sorted(kept)[:SAMPLE]:
        user = kept[hashed]
        whole = sha256(user.encode("utf-8", "surrogatepass")).hexdigest()
        yield user if show_users else whole[:HASH_DIGITS]
