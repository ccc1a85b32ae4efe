"""Asks a Prometheus server, and says of every number that it does not give why it does not.

Each question is asked once for each side, all of them at the same time, and each in one call: the
value and the moment of the sample that it comes from. A sample that is old, missing, not a number
or one of several is a trouble, never a value.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout
from canary_engine.errors import CanaryError
from canary_engine.model import Variant
from canary_engine.plan import Query
from canary_engine.promql import QueryRefused, QueryVariable, filled

from canary_controller.sources.source import Measured, MetricKey, Target, Trouble

DEADLINE_S = 5.0
MAX_AGE_S = 150.0
"""Two scrapes at Prometheus's own default of a minute, and some time for each."""
MAX_BYTES = 1 << 20
MOST_AT_ONCE = 16
MAX_SHOWN = 300
_PART = "canary_part"


class NoNumber(CanaryError):  # noqa: N818 - it says what is the matter
    """The server gave no number; the message says why, for people."""


class NothingThere(NoNumber):
    """It answered, and there is nothing that the query is about: nothing yet, maybe."""


class Prometheus:
    """A server at ``url``, e.g. http://127.0.0.1:9090, maybe with a path before /api/v1."""

    def __init__(
        self,
        session: ClientSession,
        url: str,
        *,
        deadline_s: float = DEADLINE_S,
        max_age_s: float = MAX_AGE_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._timeout = ClientTimeout(total=deadline_s)
        self._deadline_s, self._max_age_s, self._now = deadline_s, max_age_s, now
        self._places = asyncio.Semaphore(MOST_AT_ONCE)

    async def measure(self, target: Target, queries: Sequence[Query]) -> Measured:
        """See Source."""
        asked = [(query, variant) for query in queries for variant in Variant]
        answers = await asyncio.gather(*(self._one(target, *question) for question in asked))
        sides: dict[Variant, dict[MetricKey, float]] = {variant: {} for variant in Variant}
        troubles = []
        for (query, variant), answer in zip(asked, answers, strict=True):
            if isinstance(answer, Trouble):
                troubles.append(answer)
            else:
                sides[variant][(query.metric, query.name)] = answer
        return Measured(
            canary=sides[Variant.CANARY], stable=sides[Variant.STABLE], troubles=tuple(troubles)
        )

    async def _one(self, target: Target, query: Query, variant: Variant) -> float | Trouble:
        """The number, or why there is none."""
        trouble = partial(Trouble, metric=query.metric, name=query.name, variant=variant)
        try:
            promql = filled(query.promql, _values(target, variant))
            # Whoever waits for others to be answered waits no longer than for an answer.
            async with asyncio.timeout(self._deadline_s), self._places:
                body = await self._asked(promql)
            return value_in(body, now=self._now(), max_age_s=self._max_age_s)
        except (QueryRefused, NoNumber) as error:
            return trouble(why=str(error), is_empty=isinstance(error, NothingThere))
        except TimeoutError:
            return trouble(why=f"Prometheus did not answer within {self._deadline_s:g} s")
        except (ClientError, OSError, ValueError) as error:
            why = f"Prometheus cannot be reached: {error or type(error).__name__}"
            return trouble(why=why[:MAX_SHOWN])

    async def _asked(self, promql: str) -> bytes:
        form = {
            "query": _with_moment(promql),
            "timeout": f"{math.ceil(self._deadline_s * 1_000)}ms",
            # Behind avg() a sample has no moment of its own: older ones must not get there.
            "lookback_delta": f"{math.ceil(self._max_age_s * 1_000)}ms",
        }
        async with self._session.post(
            self._url, data=form, timeout=self._timeout, allow_redirects=False
        ) as answer:
            body = await _read(answer.content.iter_any)
            if answer.status not in (200, 400, 422, 503):
                raise NoNumber(f"Prometheus answered with status {answer.status}")
            return body


def value_in(body: bytes, *, now: float, max_age_s: float) -> float:
    """The number in an answer. Raises NoNumber with what is wrong, in words."""
    values, moments = _samples(_document(body))
    if not values:
        raise NothingThere("the query gave no sample: nothing matches it, or nothing was measured")
    if len(values) > 1:
        raise NoNumber(f"the query gave {len(values)} samples; aggregate them to one, e.g. sum()")
    (value,) = values
    if not math.isfinite(value):
        raise NothingThere(f"the query gave {value}; nothing was measured, or it divides by zero")
    age_s = now - min(moments, default=now)
    if age_s > max_age_s:
        raise NoNumber(f"the sample is {age_s:.0f} s old; no more than {max_age_s:g} s are allowed")
    return value


def _values(target: Target, variant: Variant) -> dict[QueryVariable, str]:
    return {
        QueryVariable.SERVICE_KEY: target.service_key,
        QueryVariable.VERSION: target.version(variant),
        QueryVariable.VARIANT: variant,
        QueryVariable.RELEASE_ID: target.release_id,
        QueryVariable.WINDOW: f"{target.window_s}s",
    }


def _with_moment(promql: str) -> str:
    """A question for the value and, in the same evaluation, for the moment of its sample."""
    # The new lines end a comment that the question may end with.
    parts = {"value": f"(\n{promql}\n)", "moment": f"timestamp(\n{promql}\n)"}
    return " or ".join(
        f'label_replace({part}, "{_PART}", "{name}", "", "")' for name, part in parts.items()
    )


async def _read(chunks: Callable[[], Any]) -> bytes:
    found = bytearray()
    async for chunk in chunks():
        found += chunk
        if len(found) > MAX_BYTES:
            raise NoNumber(
                f"Prometheus answered more than {MAX_BYTES:,} bytes; aggregate the query"
            )
    return bytes(found)


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise NoNumber("Prometheus answered something that is not JSON") from None
    if not isinstance(document, Mapping):
        raise NoNumber("Prometheus answered JSON of another shape")
    if document.get("status") != "success":
        said = f"{document.get('errorType', '')}: {document.get('error', '')}"
        # JSON may name half of a character, which no message to the service can hold.
        shown = said[:MAX_SHOWN].encode(errors="replace").decode()
        raise NoNumber(f"Prometheus refused the query: {shown}")
    return document


def _samples(document: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """The values, and the moments of their samples."""
    found: dict[str, list[float]] = {"value": [], "moment": []}
    try:
        for sample in document["data"]["result"]:
            found[sample["metric"][_PART]].append(float(sample["value"][1]))
    except (KeyError, TypeError, ValueError, IndexError):
        raise NoNumber("Prometheus answered JSON of another shape") from None
    return found["value"], found["moment"]
