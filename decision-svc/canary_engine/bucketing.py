"""Sticky buckets: a hash key always falls into the same one of ``BUCKETS`` under one salt.

bucket = (murmur3_x86_32(salt ‖ 0x00 ‖ key) x 100,000) >> 32, over UTF-8 bytes, seed 0, the
hash read as an unsigned number. Multiplying and shifting instead of taking a remainder uses
the hash's high bits and spreads what 2**32 leaves over evenly. A key gets the canary while
``bucket < share``: nobody at 0, everybody at 100,000, and raising the share only adds.

Source: A. Appleby, MurmurHash3 (2011), 32-bit variant; range reduction as in D. Lemire,
"Fast Random Integer Generation in an Interval" (2019).
"""

from __future__ import annotations

from mmh3 import mmh3_32_uintdigest

from canary_engine.model import BUCKETS


def prefix(salt: str) -> bytes:
    """What is put before a key to hash it under ``salt``."""
    return salt.encode("utf-8", "surrogatepass") + b"\0"


def bucket(prefix: bytes, key: str) -> int:
    """Bucket of ``key``, 0 to 99,999, under a salt's ``prefix``."""
    return mmh3_32_uintdigest(prefix + key.encode("utf-8", "surrogatepass")) * BUCKETS >> 32
