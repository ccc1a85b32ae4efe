"""Stage 2: a signed token in the request forces a variant."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from canary_engine.model import Answer, Person, Policy, Reason, Request
from canary_engine.override import Judged, judged, objection
from canary_engine.stages.stage import Stage
from canary_engine.verdicts import Verdicts


def override_stage(verdicts: Verdicts, policy: Policy) -> Stage:
    """Does what a believed token says; looks in the header first, then in the cookie."""
    public_key, service_key = policy.overrides.public_key, policy.service_key
    header, cookie = policy.overrides.header, policy.overrides.cookie
    user_id_header = policy.identity.user_id_header
    revoked = frozenset(override.id for override in policy.overrides.revoked)

    def believed(token: str, request: Request, now: datetime) -> Judged:
        """The override, or why the token does not count."""
        found = judged(token, public_key, service_key)
        if isinstance(found, str):
            return found
        if found.id in revoked:
            return f"override {found.id} was revoked"
        user = request.headers.get(user_id_header, "")
        return objection(found, user, request.client_ip, now) or found

    def decide(request: Request, person: Person | None, now: datetime) -> Answer | None:
        in_header, in_cookie = request.headers.get(header, ""), request.cookies.get(cookie, "")
        if not in_header and not in_cookie:  # nearly always
            return None
        for token in (in_header, in_cookie):
            found = believed(token, request, now) if token else ""
            if not isinstance(found, str):
                return verdicts.plain(found.variant, Reason.OVERRIDE, found.id)
        return None

    def findings(request: Request, now: datetime) -> Iterator[str]:
        places = (
            (f"header {header}", request.headers.get(header, "")),
            (f"cookie {cookie}", request.cookies.get(cookie, "")),
        )
        for place, token in places:
            found = believed(token, request, now) if token else ""
            if not isinstance(found, str):
                yield f"override {found.id} in {place} says {found.variant}"
                return
            if found:
                yield f"the override in {place} does not count: {found}"

    def find(request: Request, person: Person, now: datetime) -> str:
        return "; ".join(findings(request, now)) or "the request carries no override"

    return Stage(Reason.OVERRIDE, decide, find)
