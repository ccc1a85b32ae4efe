"""Stored documents as policies: what something else wrote is not trusted."""

from __future__ import annotations

from canary_engine import parse
from canary_engine.errors import InvalidPolicy
from canary_engine.model import Policy

from decision_svc.store.protocol import Document, StoreError


def stored_policy(service_key: str, document: Document) -> Policy:
    """The policy of that service key. Raises StoreError if the document is of none or another."""
    try:
        policy = parse.policy(document)
    except InvalidPolicy as error:
        raise StoreError(f"the stored policy of {service_key!r} is invalid: {error}") from error
    if policy.service_key != service_key:
        raise StoreError(f"the stored policy of {service_key!r} is of {policy.service_key!r}")
    return policy
