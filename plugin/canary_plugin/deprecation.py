"""What clients of a deprecated API version are told: RFC 9745, RFC 8594."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import format_datetime
from functools import lru_cache
from urllib.parse import quote

from canary_engine.model import Deprecation

# What a URI may hold; anything else is percent-encoded.
_OF_URIS = "!#$%&'()*+,/:;=?@[]~"


@lru_cache(maxsize=1_024)
def deprecation_headers(deprecation: Deprecation) -> Mapping[str, str]:
    """The response headers."""
    headers = {"Deprecation": f"@{int(deprecation.since.timestamp())}"}
    if deprecation.sunset is not None:
        headers["Sunset"] = format_datetime(deprecation.sunset, usegmt=True)
    if deprecation.link:
        headers["Link"] = f'<{quote(deprecation.link, safe=_OF_URIS)}>; rel="deprecation"'
    return headers
