"""Tallies and labels as bytes in Redis: MessagePack, which its scripts read too.

A tally is the list that ``Flat`` is. Its statuses and both histograms are flat lists of key, count,
key, count, in the order of the keys: so a script can add two of them up in one go, and a message is
made of them without a dictionary. What cannot be read raises StoreError and names the place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgpack
from canary_engine.histogram import Histogram
from canary_engine.model import Cohort, Variant
from canary_engine.outcomes import Labels, Tally

from decision_svc.outcomes.protocol import Flat
from decision_svc.store.protocol import StoreError


def flat(tally: Tally) -> Flat:
    """A tally, flat."""
    request, upstream = tally.request, tally.upstream
    return Flat(
        _flat(sorted(tally.statuses.items())),
        _flat(request),
        request.sum_us,
        _flat(upstream),
        upstream.sum_us,
        tally.lost,
    )


def tally(found: Flat) -> Tally:
    """The tally that was made flat."""
    return Tally(
        _pairs(found.statuses),
        Histogram(_pairs(found.request), found.request_us),
        Histogram(_pairs(found.upstream), found.upstream_us),
        found.lost,
    )


def pack_tally(found: Tally) -> bytes:
    """A tally as bytes."""
    packed: bytes = msgpack.packb(flat(found))
    return packed


def unpack_flat(data: bytes, where: str) -> Flat:
    """The tally that was packed, flat."""
    try:
        found = Flat(*msgpack.unpackb(data))
        is_well = not any(len(part) % 2 for part in (found.statuses, found.request, found.upstream))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise StoreError(f"{where} holds something that is not a tally") from error
    if not is_well:
        raise StoreError(f"{where} holds something that is not a tally")
    return found


def pack_labels(labels: Labels) -> bytes:
    """Labels as bytes, but for the service key."""
    packed: bytes = msgpack.packb(
        [labels.release_id, str(labels.cohort), str(labels.variant), labels.version],
        unicode_errors="surrogatepass",
    )
    return packed


def unpack_labels(service_key: str, data: bytes, where: str) -> Labels:
    """The labels that were packed."""
    try:
        return _labels(service_key, data)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise StoreError(f"{where} holds labels that cannot be read") from error


# The same few labels are in every slot of a release.
@lru_cache(maxsize=10_000)
def _labels(service_key: str, data: bytes) -> Labels:
    release_id, cohort, variant, version = msgpack.unpackb(data, unicode_errors="surrogatepass")
    return Labels(service_key, version, Variant(variant), release_id, Cohort(cohort))


def _flat(pairs: Iterable[tuple[int, int]]) -> list[int]:
    return [number for pair in pairs for number in pair]


def _pairs(numbers: Sequence[int]) -> dict[int, int]:
    return dict(zip(numbers[::2], numbers[1::2], strict=True))
