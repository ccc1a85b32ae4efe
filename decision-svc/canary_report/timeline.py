"""Who did what to a release, when and why: people, controller, webhooks, alerts, in one order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from canary_engine.record import Alert

from canary_report.story import Story
from canary_report.words import weight

CONTROLLER = "controller"
MOST_TOLD = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One line of the timeline; ``number`` is there for what moved the release."""

    at: datetime
    who: str
    what: str
    why: str = ""
    revision: int = 0
    number: str = ""


def timeline(story: Story) -> tuple[Happening, ...]:
    """Everything that happened, oldest first; what changed the policy is numbered from 1."""
    found = [*_changes(story), *_events(story), *_ticks(story), *_calls(story), *_alerts(story)]
    # Of one moment, what was done goes before what was said of it.
    found.sort(key=lambda h: (h.at, not h.revision, h.revision))
    numbered, count = [], 0
    for happening in found[:MOST_TOLD]:
        if happening.revision:
            count += 1
            happening = replace(happening, number=str(count))
        numbered.append(happening)
    return tuple(numbered)


def _changes(story: Story) -> Iterator[Happening]:
    """What was written to the policy; the controller's word for it is kept beside."""
    words = {event.revision: event.what for event in story.record.events if event.revision}
    for change in story.changes_within:
        word = words.get(change.revision)
        yield Happening(
            at=change.at,
            who=change.actor,
            what=change.summary or word or "changed the policy",
            why=change.reason,
            revision=change.revision,
        )


def _events(story: Story) -> Iterator[Happening]:
    known = {change.revision for change in story.changes_within}
    for event in story.record.events:
        if not event.revision or event.revision not in known:
            yield Happening(
                at=event.at,
                who=CONTROLLER,
                what=event.what,
                why=event.why,
                revision=event.revision,
            )


def _ticks(story: Story) -> Iterator[Happening]:
    for tick in story.release.ticks if story.release else ():
        yield Happening(at=tick.at, who=tick.by, what=f"ticked {tick.item!r}")


def _calls(story: Story) -> Iterator[Happening]:
    for call in story.record.calls:
        about = f" {weight(call.weight)}" if call.weight and call.occasion == "raise" else ""
        tries = f" after {call.tries} tries" if call.tries > 1 else ""
        yield Happening(
            at=call.at,
            who=f"webhook {call.name}",
            what=f"{call.occasion}{about}: {call.answer or 'no answer'}{tries}",
            why=call.text,
        )


def _alerts(story: Story) -> Iterator[Happening]:
    for alert in story.record.alerts:
        if alert.told_at is None and alert.is_open and alert.due_at is not None:
            continue  # it was never due
        yield Happening(
            at=alert.since, who=CONTROLLER, what=f"{alert.severity}: {alert.title}", why=alert.text
        )
        yield from _ends(alert)


def _ends(alert: Alert) -> Iterator[Happening]:
    if alert.resolved_at is not None and not alert.is_moment:
        yield Happening(at=alert.resolved_at, who=CONTROLLER, what=f"over: {alert.title}")
