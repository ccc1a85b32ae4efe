"""Verifying a chain, without a service: what is whole, and which entry is the first wrong one."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from canaryctl import chain
from canaryctl.chain import Broken, Chain, Entry
from hypothesis import given
from hypothesis import strategies as st


def sealed(sequence: int, **fields: Any) -> Entry:
    text = json.dumps({"sequence": sequence, "service_key": "shop", **fields}, sort_keys=True)
    return Entry(sequence=sequence, entry=text, hash=sha256(text.encode()).hexdigest())


def a_chain(length: int) -> list[Entry]:
    entries: list[Entry] = []
    for sequence in range(1, length + 1):
        previous = entries[-1].hash if entries else ""
        entries.append(sealed(sequence, previous=previous, revision=sequence, document="d"))
    return entries


def verified(entries: list[Entry], noted: str = "", stored_revision: int = 0) -> Chain:
    found = Chain("shop", noted)
    for entry in entries:
        found.add(entry)
    found.end(stored_revision)
    return found


def test_a_chain_without_entries_is_whole() -> None:
    assert (verified([]).entries, verified([]).head) == (0, "")


def test_a_whole_chain_ends_with_its_newest_hash() -> None:
    entries = a_chain(5)
    assert verified(entries, entries[2].hash, 5).head == entries[-1].hash


@given(st.data())
def test_no_chain_that_lost_exchanged_or_gained_an_entry_has_the_noted_head(
    data: st.DataObject,
) -> None:
    whole = a_chain(6)
    spoiled = data.draw(
        st.one_of(
            st.permutations(whole),
            st.lists(st.sampled_from(whole), max_size=8),
        )
    )
    if spoiled == whole:
        assert verified(spoiled, whole[-1].hash).entries == 6
    else:
        with pytest.raises(Broken):
            verified(spoiled, whole[-1].hash)


@given(st.integers(0, 5), st.data())
def test_one_changed_character_is_found_in_its_entry(index: int, data: st.DataObject) -> None:
    entries = a_chain(6)
    text = entries[index].entry
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(max_codepoint=127, exclude_characters=text[at]))
    entries[index] = Entry(
        sequence=index + 1,
        entry=text[:at] + character + text[at + 1 :],
        hash=entries[index].hash,
    )
    with pytest.raises(Broken, match=rf"entry {index + 1}: it was edited"):
        verified(entries)


def test_a_revision_that_has_no_entry_is_found() -> None:
    first = sealed(1, previous="", revision=4)
    with pytest.raises(Broken, match="entry 2: it is of revision 6 and follows revision 4"):
        verified([first, sealed(2, previous=first.hash, revision=6)])
    with pytest.raises(Broken, match=r"entry 2 is missing: the policy is at revision 5"):
        verified([first], stored_revision=5)


def test_an_entry_without_a_revision_stands_between_revisions() -> None:
    first = sealed(1, previous="", revision=4)
    second = sealed(2, previous=first.hash, summary="create override")
    assert verified([first, second, sealed(3, previous=second.hash, revision=5)]).revision == 5


def test_an_entry_is_read_as_it_was_written() -> None:
    entry = sealed(1, previous="", reason="因为\u2028\n")
    assert "\n" not in chain.written(entry)
    assert chain.read(chain.written(entry)) == entry


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"sequence":"1","hash":"","entry":""}'])
def test_a_line_that_holds_no_entry_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        chain.read(line)
