"""How documents, records and profiles are written: canonical JSON, the same in every adapter.

What cannot be written or read back raises StoreError; reading names the place it was found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from canary_engine.model import Profile

from decision_svc.store.pieces import in_pieces
from decision_svc.store.protocol import ChangeRecord, Document, Link, StoreError


async def write_document(document: Document) -> bytes:
    """The document as bytes; equal documents give equal bytes."""
    return await in_pieces(document, _write)


def read_document(data: bytes, where: str) -> Document:
    """The document that was written, a fresh copy every time."""
    return _read_object(data, where)


def write_record(record: ChangeRecord) -> bytes:
    """The record as bytes."""
    fields = {
        "revision": record.revision,
        "actor": record.actor,
        "at": record.at.isoformat(),
        "reason": record.reason,
        "summary": record.summary,
    }
    named = {"key": record.key, "digest": record.digest} if record.key else {}
    return _write(fields | named)


def read_record(data: bytes, where: str) -> ChangeRecord:
    """The record that was written."""
    fields = _read_object(data, where)
    try:
        return ChangeRecord(
            revision=int(fields["revision"]),
            actor=fields["actor"],
            at=datetime.fromisoformat(fields["at"]),
            reason=fields["reason"],
            summary=fields["summary"],
            key=fields.get("key", ""),
            digest=fields.get("digest", ""),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{where} holds something that is not a change record") from error


def write_link(link: Link) -> bytes:
    """The link as bytes: the hash, a space, the entry."""
    return _encode(f"{link.hash} {link.entry}")


def read_link(data: bytes, sequence: int) -> Link:
    """The link that was written; anything else too, for it must be seen by who verifies."""
    hash_, space, entry = data.decode(errors="replace").partition(" ")
    return Link(sequence=sequence, entry=entry if space else hash_, hash=hash_ if space else "")


def write_profile(profile: Profile) -> dict[str, bytes]:
    """The profile as flat fields; all of them always, so that an empty profile is not absent."""
    registered_at = profile.registered_at.isoformat() if profile.registered_at else ""
    return {
        "tier": _encode(profile.tier),
        "registered_at": registered_at.encode(),
        "region": _encode(profile.region),
        "tags": _write(sorted(profile.tags)),
        "custom": _write(dict(profile.custom)),
    }


def read_profile(fields: Mapping[str, bytes], where: str) -> Profile:
    """The profile that was written; a field that is missing is an absent fact."""
    custom = _read_object(fields.get("custom", b"{}"), where)
    return Profile(
        tier=read_text(fields.get("tier", b""), where),
        registered_at=_read_time(read_text(fields.get("registered_at", b""), where), where),
        region=read_text(fields.get("region", b""), where),
        tags=frozenset(str(tag) for tag in _read_list(fields.get("tags", b"[]"), where)),
        custom={name: str(value) for name, value in custom.items()},
    )


def read_text(data: bytes, where: str) -> str:
    """The text that was written."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"{where} holds something that is not UTF-8") from error


def _read_time(text: str, where: str) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise StoreError(f"{where} has a registered_at that is not an ISO 8601 time") from error
    # Other programs may write profiles too; comparing a time without a zone would raise.
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _write(value: Any) -> bytes:
    if isinstance(value, Mapping):
        value = dict(value)
    try:
        text = json.dumps(
            value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"this cannot be written as JSON: {error}") from error
    return _encode(text)


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise StoreError("this cannot be written as UTF-8: it has half a surrogate pair") from error


def _read(data: bytes, where: str) -> Any:
    try:
        return msgspec.json.decode(data)  # in a third of the time
    except (msgspec.DecodeError, RecursionError):
        pass  # Python's reader takes a little more, and says better what is wrong
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where} holds something that is not JSON: {error}") from error


def _read_object(data: bytes, where: str) -> dict[str, Any]:
    value = _read(data, where)
    if not isinstance(value, dict):
        raise StoreError(f"{where} holds JSON that is not an object")
    return value


def _read_list(data: bytes, where: str) -> list[Any]:
    value = _read(data, where)
    if not isinstance(value, list):
        raise StoreError(f"{where} holds JSON that is not a list")
    return value
