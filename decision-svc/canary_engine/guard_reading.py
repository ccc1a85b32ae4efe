"""Reads from documents who must agree, when nothing moves, and whose overrides are believed."""

from __future__ import annotations

from base64 import b64decode
from datetime import UTC, datetime

from canary_engine.model import (
    DEFAULT_OVERRIDE_COOKIE,
    DEFAULT_OVERRIDE_HEADER,
    Approval,
    ApprovalRules,
    ApprovedMove,
    Guards,
    Overrides,
    RevokedOverride,
)
from canary_engine.plan_reading import read_freeze
from canary_engine.reading import MAX_NAME, Node


def read_guards(node: Node | None) -> Guards:
    """Who must agree to what, and when nothing moves."""
    if node is None:
        return Guards()
    rules = ApprovalRules()
    part = node.node("approvals")
    if part is not None:
        rules = ApprovalRules(
            start=part.yes("start"),
            promote=part.yes("promote"),
            above=part.share("above"),
            widen=part.yes("widen"),
        )
        part.finish()
    found = Guards(approvals=rules, freezes=tuple(map(read_freeze, node.nodes("freezes"))))
    node.finish()
    return found


def read_approval(node: Node) -> Approval:
    """An approval."""
    epoch = datetime.fromtimestamp(0, UTC)
    for name in ("at", "expires_at"):
        if not node.has(name):
            node.complain(name, "give a time")
    found = Approval(
        id=node.name("id"),
        move=node.word("move", ApprovedMove),
        version=node.name("version"),
        share=node.share("percentage") or 0,
        by=node.name("by"),
        at=node.time("at") or epoch,
        expires_at=node.time("expires_at") or epoch,
    )
    node.finish()
    return found


def read_overrides(node: Node | None) -> Overrides:
    """How testers force a variant."""
    if node is None:
        return Overrides()
    revoked = []
    for part in node.nodes("revoked", "id"):
        id_, expires_at = part.name("id"), part.time("expires_at")
        if expires_at is None:
            part.complain("expires_at", "give a time")
        else:
            revoked.append(RevokedOverride(id=id_, expires_at=expires_at))
        part.finish()
    found = Overrides(
        public_key=node.text("public_key", MAX_NAME),
        header=node.header("header") or DEFAULT_OVERRIDE_HEADER,
        cookie=node.token("cookie") or DEFAULT_OVERRIDE_COOKIE,
        revoked=tuple(revoked),
    )
    if found.public_key and not _is_key(found.public_key):
        node.complain("public_key", "give the 32 bytes of an Ed25519 public key as base64")
    node.finish()
    return found


def _is_key(text: str) -> bool:
    try:
        return len(b64decode(text, validate=True)) == 32
    except ValueError:
        return False
