"""Stage 5: who is listed always gets the canary."""

from __future__ import annotations

from datetime import datetime

from canary_engine.model import Decision, Person, Reason, Request, Variant, Whitelist
from canary_engine.network import NetworkSet
from canary_engine.stages.stage import Stage
from canary_engine.verdicts import Verdicts


def whitelist_stage(verdicts: Verdicts, whitelist: Whitelist, user_id_header: str) -> Stage:
    """Looks for the address first, then the user, then the consumer."""
    networks = NetworkSet(whitelist.ips)
    has_networks, network_of = bool(networks), networks.find
    users, consumers = frozenset(whitelist.users), frozenset(whitelist.consumers)

    def because(matched: str) -> Decision:
        return verdicts.plain(Variant.CANARY, Reason.WHITELIST, matched)

    def decide(request: Request, person: Person | None, now: datetime) -> Decision | None:
        if has_networks and (network := network_of(request.client_ip)):
            return because(network)
        if users and request.headers.get(user_id_header, "") in users:
            return because("user")
        if consumers and request.consumer in consumers:
            return because("consumer")
        return None

    def find(request: Request, person: Person, now: datetime) -> str:
        decided = decide(request, person, now)
        if decided is None:
            return "neither IP, user nor consumer is listed"
        return f"{decided.matched} is listed"

    return Stage(Reason.WHITELIST, decide, find)
