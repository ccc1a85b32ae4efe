"""A report as Markdown: words and tables, for reviews, chats and archives."""

from __future__ import annotations

import re
from collections.abc import Iterator

from canary_report.blocks import Block, Cell, Facts, Figure, Paragraph, Report, Table
from canary_report.content import report
from canary_report.story import Story

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MEANING = re.compile(r"([\\`*_{}\[\]<>|#~&])")


def as_markdown(story: Story) -> str:
    """The story of a release as Markdown; nobody's words in it are taken for markup."""
    return "\n".join(_lines(report(story)))


def _lines(made: Report) -> Iterator[str]:
    yield f"# {_plain(made.title)}: {_plain(str(made.outcome))}"
    yield ""
    yield _plain(made.lead)
    yield ""
    yield from _block(made.facts)
    for section in made.sections:
        yield f"## {section.title}"
        yield ""
        for block in section.blocks:
            yield from _block(block)
    yield "---"
    yield ""
    yield _plain(made.footer)
    yield ""


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph():
            yield _plain(block.text)
            yield ""
        case Facts():
            yield from (f"- **{_plain(name)}:** {_plain(said)}" for name, said in block.rows)
            yield ""
        case Table():
            yield from _table(block)
            yield ""
        case Figure():
            pass  # what a plot shows is in the tables too


def _table(table: Table) -> Iterator[str]:
    yield _row(table.headings)
    marks = ["--:" if n in table.numeric else "---" for n in range(len(table.headings))]
    yield f"| {' | '.join(marks)} |"
    for row in table.rows:
        yield _row(row)


def _row(cells: tuple[Cell, ...]) -> str:
    return f"| {' | '.join(_plain(str(cell)) for cell in cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown and HTML show as it is, in one line."""
    return _MEANING.sub(r"\\\1", _CONTROL.sub(" ", text)).strip()
