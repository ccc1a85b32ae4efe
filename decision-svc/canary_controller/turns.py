"""Work that is done now and then: each release has its own second for it.

Releases that are started, or found, together would else all do it in the same tick.
"""

from __future__ import annotations

from datetime import datetime
from zlib import crc32


def turn(service_key: str, now: datetime, every_s: int) -> int:
    """The number of the stretch of ``every_s`` seconds that ``now`` lies in.

    It grows by one ``every_s`` seconds, for every service key at a moment of its own.
    """
    return int((now.timestamp() + crc32(service_key.encode(errors="surrogatepass"))) // every_s)
