"""The parts of a report, of which Markdown and HTML are two renderings."""

from __future__ import annotations

from dataclasses import dataclass

FAR = 1_000
"""From here on it does not matter how many times as many it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names and values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A ratio and between what it lies, drawn on a scale that all of a table share."""

    low: float
    value: float
    high: float

    def __str__(self) -> str:
        high = f"{self.high:.2f}" if self.high < FAR else f"more than {FAR:,}"
        return f"× {self.value:.2f} ({self.low:.2f} to {high})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """A word that stands out, by its kind: good, bad, warn or plain."""

    word: str
    kind: str = "plain"

    def __str__(self) -> str:
        return self.word


Cell = str | Badge | Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headings; ``numeric`` columns are set to the right.

    With ``folded``, a line of text, it is shown when a reader asks for it, where that is possible.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = frozenset()
    folded: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot, and what it shows in words; left out where nothing can be drawn."""

    title: str
    svg: str
    caption: str


Block = Paragraph | Facts | Table | Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole: title, outcome, the most important facts, sections, and who made it when."""

    title: str
    outcome: Badge
    lead: str
    facts: Facts
    sections: tuple[Section, ...]
    footer: str
