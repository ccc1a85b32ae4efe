"""Whom a decision was made for, and the mark that stands for them: never the id itself.

The mark of the same user is another one in every release and service key, for those are hashed
with it; so nobody is followed from one release to the next. Services and gateways make the same.
"""

from __future__ import annotations

from hashlib import sha256

from canary_engine import reads
from canary_engine.facts import Read, first_reader
from canary_engine.model import Anonymous, HashKey, Policy, Request, Source

MARK_BYTES = 8


def who_of(policy: Policy) -> Read:
    """A function that tells users apart: the user id, else the hash key, else the key that was
    drawn for the request and stays. "" where nothing does.

    While no release takes traffic, nothing is read of a request, and nobody is told apart.
    """
    release = policy.release
    if release is None or not release.is_in_force or release.halted:
        return lambda _: ""
    user = HashKey(source=Source.HEADER, key=policy.identity.user_id_header)
    own = first_reader((user, *reads.hash_keys(policy)))
    if policy.bucketing.anonymous is not Anonymous.STICKY_COOKIE:
        return own

    def who(request: Request) -> str:
        return own(request) or request.fallback_key

    return who


def mark(service_key: str, release_id: str, who: str) -> int:
    """64 bits that stand for a user in one release."""
    text = f"{service_key}\0{release_id}\0{who}".encode("utf-8", "surrogatepass")
    return int.from_bytes(sha256(text).digest()[:MARK_BYTES])
