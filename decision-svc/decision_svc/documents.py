"""Stored documents as policies: what something else wrote is not trusted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from canary_engine import parse
from canary_engine.errors import InvalidPolicy
from canary_engine.model import Policy
from canary_engine.written import Written

from decision_svc.store.protocol import Document, StoreError

MAX_KEPT = 256


class Documents:
    """The last document of each service key, so that reading the next costs what differs."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, Written] = OrderedDict()

    def read(self, service_key: str, document: Document | None) -> Written:
        """The policy and its document; None is one that nothing was written to yet.

        Raises StoreError if the document is of no policy, or of another service key, and
        InvalidPolicy if nothing was written and the service key is no name.
        """
        if document is None:
            empty = {"service_key": service_key}
            return Written(parse.policy(empty), empty)
        last = self._last.get(service_key)
        if last is not None and last.document == document:
            return last
        policy = _policy(service_key, document, last.read if last else parse.policy)
        found = Written(policy, document)
        self.keep(found)
        return found

    def of(self, policy: Policy) -> Written:
        """A policy that holds together, with its document."""
        last = self._last.get(policy.service_key)
        if last is not None and last.policy is policy:
            return last
        return Written(policy, parse.document(policy))

    def keep(self, written: Written) -> None:
        """Remember it as the last of its service key."""
        service_key = written.policy.service_key
        self._last[service_key] = written
        self._last.move_to_end(service_key)
        if len(self._last) > MAX_KEPT:
            self._last.popitem(last=False)


def stored_policy(service_key: str, document: Document) -> Policy:
    """The policy of that service key. Raises StoreError if the document is of none or another."""
    return _policy(service_key, document, parse.policy)


def _policy(service_key: str, document: Document, read: Callable[[Document], Policy]) -> Policy:
    try:
        policy = read(document)
    except InvalidPolicy as error:
        raise StoreError(f"the stored policy of {service_key!r} is invalid: {error}") from error
    if policy.service_key != service_key:
        raise StoreError(f"the stored policy of {service_key!r} is of {policy.service_key!r}")
    return policy
