"""What a webhook is sent, how that is signed, and what its answer means; pure.

The signature is HMAC-SHA256 over the timestamp, a dot and the body, in hexadecimal after ``v1=``.
Who checks it, and that the timestamp is not old, knows that the message is ours and no replay.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from canary_engine.model import BUCKETS
from canary_engine.record import PROMOTION, Answer
from canary_engine.webhooks import MAX_TEXT, Question

ID, TIMESTAMP, SIGNATURE = "X-Canary-Id", "X-Canary-Timestamp", "X-Canary-Signature"

_NO = frozenset({403, 409})
_NOT_YET = frozenset({425, 429})


class Said(NamedTuple):
    """An answer, and the rest in words."""

    answer: Answer
    text: str


def body_of(question: Question, why: str, metrics: Mapping[str, Any]) -> bytes:
    """The question as JSON; ``percentage`` is absent where it is about the promotion."""
    document: dict[str, Any] = {
        "id": question.id,
        "service_key": question.service_key,
        "release_id": question.release_id,
        "version": question.version,
        "webhook": question.name,
        "occasion": question.occasion,
        "may_refuse": question.may_refuse,
        "why": why,
        "metrics": metrics,
    }
    if question.weight != PROMOTION:
        document["percentage"] = question.weight * 100 / BUCKETS
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def headers_of(question: Question, body: bytes, secret: bytes, at_s: int) -> dict[str, str]:
    """The headers that go with a body; without a secret it is not signed."""
    headers = {"Content-Type": "application/json", ID: question.id, TIMESTAMP: str(at_s)}
    if secret:
        headers[SIGNATURE] = f"v1={signature(secret, at_s, body)}"
    return headers


def signature(secret: bytes, at_s: int, body: bytes) -> str:
    """HMAC-SHA256 over "timestamp.body", 64 hexadecimal digits."""
    return hmac.new(secret, f"{at_s}.".encode() + body, sha256).hexdigest()


def meaning(status: int, body: bytes) -> Said:
    """What an answer means; whatever is not clear is silence, and never a no.

    ======================  ==============================================================
    status                  meaning
    ======================  ==============================================================
    2xx without a body      yes; 202: not yet
    2xx with JSON           its ``answer``: "yes", "no" or "not yet"; ``text`` is the rest
    403, 409                no; ``text`` is taken from JSON if it is some
    425, 429                not yet
    all others              no answer
    ======================  ==============================================================
    """
    document = _document(body)
    text = _text(document)
    if status in _NO:
        return Said(Answer.NO, text or f"status {status}")
    if status in _NOT_YET:
        return Said(Answer.NOT_YET, text or f"status {status}")
    if not 200 <= status < 300:
        return Said(Answer.SILENCE, f"it answered with status {status}")
    if not body.strip():
        return Said(Answer.NOT_YET if status == 202 else Answer.YES, "")
    try:
        said = Answer(document["answer"]) if document is not None else Answer.SILENCE
    except (KeyError, ValueError):
        said = Answer.SILENCE
    if said is Answer.SILENCE:
        return Said(said, 'it answered neither {"answer": "yes"} nor "no" nor "not yet"')
    return Said(said, text)


def _document(body: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, Mapping) else None


def _text(document: Mapping[str, Any] | None) -> str:
    text = document.get("text") if document is not None else None
    # JSON may name half of a character, which no message to the service can hold.
    return text[:MAX_TEXT].encode(errors="replace").decode() if isinstance(text, str) else ""
