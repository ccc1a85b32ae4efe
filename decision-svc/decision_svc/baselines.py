"""The baselines that gateways have sent: known by content hash, kept in memory only."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from canary_engine import parse
from canary_engine.model import Policy

from decision_svc.errors import BadRequest

MAX_BASELINES = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class InContact:
    """A baseline and the gateways that have it now."""

    hash: str
    policy: Policy
    gateways: tuple[str, ...]


class Baselines:
    """Baselines by hash, and which gateways are in contact with which."""

    def __init__(self) -> None:
        # Clients choose what they send, so the least recently used are forgotten; a gateway
        # whose baseline was forgotten is asked for it again.
        self._known: OrderedDict[str, Policy] = OrderedDict()
        self._contacts: Counter[tuple[str, str]] = Counter()

    def get(self, hash_: str) -> Policy | None:
        """The baseline of that hash; None if it is not known here."""
        if hash_ in self._known:
            self._known.move_to_end(hash_)
        return self._known.get(hash_)

    def learn(self, hash_: str, document: Mapping[str, Any]) -> Policy:
        """Remember a baseline. Raises BadRequest unless ``hash_`` is its hash, InvalidPolicy."""
        known = self.get(hash_)
        if known is not None:
            return known
        policy = parse.policy(document)
        if parse.content_hash(parse.document(policy)) != hash_:
            raise BadRequest("baseline.hash: it is not the SHA-256 of the baseline's policy")
        self._known[hash_] = policy
        if len(self._known) > MAX_BASELINES:
            self._known.popitem(last=False)
        return policy

    @contextmanager
    def contact(self, gateway: str, hashes: Iterable[str]) -> Iterator[None]:
        """Count a gateway as in contact for as long as this is open."""
        pairs = [(hash_, gateway) for hash_ in hashes]
        self._contacts.update(pairs)
        try:
            yield
        finally:
            self._contacts.subtract(pairs)
            self._contacts = +self._contacts

    def declares(self, service_key: str) -> bool:
        """Whether a gateway in contact has a baseline for a service key."""
        return bool(service_key) and any(True for _ in self.in_contact(service_key))

    def in_contact(self, service_key: str = "") -> Iterator[InContact]:
        """The baselines of gateways in contact, of one service key or of all."""
        for hash_ in sorted({hash_ for hash_, _ in self._contacts}):
            policy = self._known.get(hash_)
            if policy is None or service_key not in ("", policy.service_key):
                continue
            gateways = sorted(name for known, name in self._contacts if known == hash_)
            yield InContact(hash=hash_, policy=policy, gateways=tuple(gateways))
