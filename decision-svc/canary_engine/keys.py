"""Where a policy finds the hash key of a request, and the bucket that it falls into."""

from __future__ import annotations

from collections.abc import Callable

from mmh3 import mmh3_32_uintdigest

from canary_engine import reads
from canary_engine.bucketing import bucket, prefix
from canary_engine.facts import first_reader
from canary_engine.model import BUCKETS, Anonymous, Policy, Request

Measure = Callable[[Request], tuple[int | None, bool]]
"""The bucket of a request's hash key, None if it has no key; and whether the key was drawn
for it and has to stay, so that a cookie is issued."""


class HashKeys:
    """The hash key of a request: the first it has of those in the policy, else one drawn for it."""

    __slots__ = ("_is_kept", "_may_be_drawn", "_own")

    def __init__(self, policy: Policy) -> None:
        anonymous = policy.bucketing.anonymous
        self._own = first_reader(reads.hash_keys(policy))
        self._may_be_drawn = anonymous is not Anonymous.STABLE
        self._is_kept = anonymous is Anonymous.STICKY_COOKIE

    def measure_under(self, salt: str) -> Measure:
        """A function that finds the bucket under ``salt``."""
        before, own = prefix(salt), self._own
        may_be_drawn, is_kept = self._may_be_drawn, self._is_kept

        def measure(request: Request) -> tuple[int | None, bool]:
            key = own(request)
            if key:  # what bucket() says, without a call: nearly every decision is made here
                hashed = mmh3_32_uintdigest(before + key.encode("utf-8", "surrogatepass"))
                return hashed * BUCKETS >> 32, False
            if may_be_drawn and request.fallback_key:
                return bucket(before, request.fallback_key), is_kept
            return None, False

        return measure
