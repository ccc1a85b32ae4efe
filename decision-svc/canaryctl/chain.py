"""Is an audit chain whole? Recomputes it, link by link, from nothing but its entries.

Each entry names the hash of the one before it, so whoever edits, removes, inserts or moves one
would have to make all those after it anew, and then the newest hash, the head, is another. That
is why the head is noted elsewhere now and then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any


class Broken(Exception):  # noqa: N818 - it is what was found
    """The chain is not whole; the message names the first entry that is wrong, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry; ``stored_document`` is the hash of what is stored as its revision, if known."""

    sequence: int
    entry: str
    hash: str
    stored_document: str = ""
    said: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "said", _parsed(self.entry))


@dataclass(slots=True)
class Chain:
    """What was verified so far; give it every entry, then ask for the end."""

    service_key: str | None = None
    """The service key it is of, "" for the chain of none; None: whichever the entries say."""
    noted: str = ""
    """A head that was noted elsewhere, to be found; "" for none."""
    entries: int = 0
    head: str = ""
    revision: int = 0
    first_revision: int = 0
    """The one that the chain begins with: more than 1 where what was before is not in it."""
    is_found: bool = False

    def add(self, entry: Entry) -> None:
        """Verify the next entry. Raises Broken."""
        place = self.entries + 1
        for complaint in self._complaints(entry, place):
            raise Broken(f"entry {place}: {complaint}")
        said = entry.said
        self.service_key = said.get("service_key", "")
        self.revision = said.get("revision", self.revision)
        self.first_revision = self.first_revision or self.revision
        self.entries, self.head = place, entry.hash
        self.is_found = self.is_found or entry.hash == self.noted

    def end(self, stored_revision: int = 0) -> None:
        """Verify that nothing is missing at the end. Raises Broken.

        ``stored_revision`` is that of the policy or of its history, whichever is newer, as it was
        before the entries were listed.
        """
        if stored_revision and not self.entries:
            raise Broken(
                f"entry 1 is missing, and all others: revision {stored_revision} was made, and "
                "the trail has no entry: it was removed"
            )
        if self.noted and not self.is_found:
            raise Broken(
                f"no entry has the hash {self.noted}: the newest entries were removed, or the "
                f"chain was made anew; it ends with entry {self.entries}"
            )
        if stored_revision > self.revision:
            raise Broken(
                f"entry {self.entries + 1} is missing: the policy is at revision "
                f"{stored_revision}, and the newest entry is of revision {self.revision}"
            )

    def _complaints(self, entry: Entry, place: int) -> Iterable[str]:
        said = entry.said
        if sha256(entry.entry.encode()).hexdigest() != entry.hash:
            yield "it was edited: its text does not have the hash that stands beside it"
        number = said.get("sequence")
        if number != place or entry.sequence != place:
            yield (
                f"here is the one that says it is number {number}: one was removed, inserted "
                "or moved"
            )
        if said.get("previous") != self.head:
            yield "it does not follow the one before it, which was edited or exchanged"
        if self.service_key is not None and said.get("service_key", "") != self.service_key:
            yield f"it belongs to the chain of {said.get('service_key', '')!r}"
        yield from self._of_revision(said, entry.stored_document)

    def _of_revision(self, said: Mapping[str, Any], stored: str) -> Iterable[str]:
        revision = said.get("revision")
        if revision is None:
            return
        if self.revision and revision != self.revision + 1:
            yield (
                f"it is of revision {revision} and follows revision {self.revision}: "
                "a change is missing between them"
            )
        if stored and stored != said.get("document"):
            yield (
                f"the document that is stored as revision {revision} was edited: it is not the "
                "one that was written"
            )


def written(entry: Entry) -> str:
    """The entry as a line of an export."""
    fields = {"sequence": entry.sequence, "hash": entry.hash, "entry": entry.entry}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def read(line: str) -> Entry:
    """The entry that a line of an export holds. Raises ValueError."""
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    try:
        sequence, hash_, entry = fields["sequence"], fields["hash"], fields["entry"]
    except KeyError as error:
        raise ValueError(f"it has no {error}") from None
    if not (isinstance(sequence, int) and isinstance(hash_, str) and isinstance(entry, str)):
        raise ValueError("sequence is a number, hash and entry are texts")
    return Entry(sequence=sequence, entry=entry, hash=hash_)


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
