"""A report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files

from canary_report.blocks import (
    Badge,
    Block,
    Cell,
    Facts,
    Figure,
    Interval,
    Paragraph,
    Report,
    Table,
)
from canary_report.content import report
from canary_report.scale import Scale
from canary_report.story import Story
from canary_report.words import in_markup as _text

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_WIDTH, _HEIGHT = 140, 22
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def as_html(story: Story) -> str:
    """The story of a release as a page; nobody's words in it are taken for markup."""
    return "\n".join(_lines(report(story)))


def _lines(made: Report) -> Iterator[str]:
    style = files("canary_report").joinpath("report.css").read_text("utf-8")
    title = _text(f"{made.title}: {made.outcome}")
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>"
    yield f"<header>\n<h1>{_text(made.title)} {_badge(made.outcome)}</h1>"
    yield f'<p class="lead">{_text(made.lead)}</p>\n{_facts(made.facts)}\n</header>'
    for section in made.sections:
        yield f"<section>\n<h2>{_text(section.title)}</h2>"
        yield from (_block(block) for block in section.blocks)
        yield "</section>"
    yield f"<footer>{_text(made.footer)}</footer>\n</main>\n</body>\n</html>\n"


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return f"<p>{_text(block.text)}</p>"
        case Facts():
            return _facts(block)
        case Table():
            return _table(block)
        case Figure():
            return (
                f'<figure><h3>{_text(block.title)}</h3><div class="wide">{block.svg}</div>'
                f"<figcaption>{_text(block.caption)}</figcaption></figure>"
            )


def _facts(facts: Facts) -> str:
    rows = (f"<div><dt>{_text(name)}</dt><dd>{_text(said)}</dd></div>" for name, said in facts.rows)
    return f"<dl>{''.join(rows)}</dl>"


def _table(table: Table) -> str:
    scale = _scale([cell for row in table.rows for cell in row if isinstance(cell, Interval)])
    head = "".join(_cell("th", h, n in table.numeric, scale) for n, h in enumerate(table.headings))
    rows = (
        "".join(_cell("td", cell, n in table.numeric, scale) for n, cell in enumerate(row))
        for row in table.rows
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    made = (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )
    if not table.folded:
        return made
    return f"<details><summary>{_text(table.folded)}</summary>{made}</details>"


def _cell(tag: str, cell: Cell, is_numeric: bool, scale: Scale) -> str:
    kind = ' class="n"' if is_numeric else ""
    match cell:
        case str() if _MOMENT.fullmatch(cell):
            kind, inside = ' class="t"', _text(cell)
        case Badge():
            inside = _badge(cell)
        case Interval():
            inside = _interval(cell, scale)
        case _:
            inside = _text(cell)
    return f"<{tag}{kind}>{inside}</{tag}>"


def _badge(badge: Badge) -> str:
    return f'<span class="badge {badge.kind}">{_text(badge.word)}</span>'


def _scale(intervals: Sequence[Interval]) -> Scale:
    """One scale for all intervals of a table: 1, which is no difference, is in the middle."""
    ends = [v for i in intervals for v in (i.low, i.high) if 0 < v < math.inf]
    far = max([2.0, *(max(v, 1 / v) for v in ends)])
    far = min(far, 10.0) * 1.1
    return Scale(low=1 / far, high=far, start=4, end=_WIDTH - 4, is_log=True)


def _interval(interval: Interval, scale: Scale) -> str:
    low, value, high = (
        scale(max(v, scale.low)) for v in (interval.low, interval.value, interval.high)
    )
    one, middle = scale(1.0), _HEIGHT / 2
    return (
        f'<svg class="interval" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{_text(str(interval))}">'
        f'<line class="tick" x1="{one:.1f}" x2="{one:.1f}" y1="0" y2="{_HEIGHT}"/>'
        f'<line class="line canary" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        f'<circle class="dot canary" cx="{value:.1f}" cy="{middle}" r="4"/></svg>'
        f'<span class="ratio">{_text(str(interval))}</span>'
    )
