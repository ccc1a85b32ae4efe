"""What a Redis's HyperLogLog says of some users: one time in many, two of them count as one."""

from __future__ import annotations

from collections.abc import Collection

from canary_engine.exposure import mark
from redis import Redis


def counted_by(redis_url: str, service_key: str, release_id: str, users: Collection[str]) -> int:
    """How many it takes them for: their marks, which no test chooses, may share a register."""
    marks = [f"{mark(service_key, release_id, user):016x}" for user in users]
    with Redis.from_url(redis_url) as redis:
        redis.pfadd("counted-by", *marks)
        found = redis.pfcount("counted-by")
        redis.delete("counted-by")
    return int(found)
