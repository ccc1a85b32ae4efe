"""Stage 7: feature flags that the request or its route names."""

from __future__ import annotations

from datetime import datetime

from canary_engine.keys import HashKeys
from canary_engine.model import (
    NOBODY,
    Answer,
    Decision,
    Person,
    PersonNeeded,
    Policy,
    Reason,
    Request,
    Variant,
)
from canary_engine.segments import membership
from canary_engine.stages.stage import Stage
from canary_engine.verdicts import Verdicts


def flag_stage(verdicts: Verdicts, keys: HashKeys, policy: Policy) -> Stage:
    """Gives the canary by the first flag named that is on for the user.

    A flag's share has a salt of its own: other users than the release's are first.
    """
    header, user_id_header = policy.identity.flags_header, policy.identity.user_id_header
    members = {s.name: membership(s, policy.identity) for s in policy.segments}
    flags = {
        flag.name: (
            flag,
            frozenset(flag.users),
            keys.measure_under("flag:" + flag.name),
            verdicts.plain(Variant.CANARY, Reason.FLAG, flag.name),
            verdicts.measured(Variant.CANARY, Reason.FLAG, flag.name),
        )
        for flag in policy.flags
        if flag.enabled
    }

    def named(request: Request) -> list[str]:
        listed = request.headers.get(header, "") if header else ""
        return [*request.flags, *(name.strip() for name in listed.split(",") if name)]

    def decide(request: Request, person: Person | None, now: datetime) -> Answer | None:
        for name in named(request):
            if name not in flags:
                continue
            flag, users, measure, decision, measured = flags[name]
            user = request.headers.get(user_id_header, "")
            if user and user in users:
                return decision
            if flag.segments and person is None:
                return PersonNeeded(user)
            if any(members[of](request, person or NOBODY, now) for of in flag.segments):
                return decision
            if flag.share:
                bucket, must_keep = measure(request)
                if bucket is not None and bucket < flag.share:
                    return measured(bucket, must_keep)
        return None

    def find(request: Request, person: Person, now: datetime) -> str:
        if not named(request):
            return "neither request nor route names a flag"
        decided = decide(request, person, now)
        if isinstance(decided, Decision):
            return f"flag {decided.matched!r} is on for this user"
        return f"off for this user: {', '.join(named(request))}"

    def measures(request: Request, person: Person, now: datetime) -> bool:
        return any(flags[name][0].share for name in named(request) if name in flags)

    return Stage(Reason.FLAG, decide, find, measures)
