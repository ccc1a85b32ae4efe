"""What a stage is: two functions, closed over what the policy says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from canary_engine.model import Answer, Person, Reason, Request

Decide = Callable[[Request, Person | None, datetime], Answer | None]
"""The decision, or whom to ask the store for; None: the next stage decides. A person who is
None was not asked for yet."""

Find = Callable[[Request, Person, datetime], str]
"""What the stage makes of a request, in words for people."""

Measures = Callable[[Request, Person, datetime], bool]
"""Whether the stage, which did not decide, compared a bucket with a share."""


class Stage(NamedTuple):
    """One reason to decide, made ready from a policy. Stages share nothing but that policy."""

    reason: Reason
    decide: Decide
    find: Find
    measures: Measures | None = None
    """None: it never does."""
