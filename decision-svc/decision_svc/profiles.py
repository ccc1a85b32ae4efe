"""Profiles as documents and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canary_engine import parse
from canary_engine.model import Profile
from canary_engine.reading import MAX_NAME, Node

from decision_svc.errors import BadRequest


def profile_of(document: Mapping[str, Any]) -> tuple[str, Profile]:
    """The user id and the profile that a document says. Raises BadRequest."""
    complaints: list[str] = []
    node = Node(document, "profile", complaints)
    user = node.name("user")
    profile = Profile(
        tier=node.text("tier", MAX_NAME),
        registered_at=node.time("registered_at"),
        region=node.text("region", MAX_NAME),
        tags=frozenset(node.texts("tags", MAX_NAME)),
        custom=node.table("custom"),
    )
    node.finish()
    if complaints:
        raise BadRequest(*complaints)
    return user, profile


def profile_document(user: str, profile: Profile) -> dict[str, Any]:
    """The document of a user's profile."""
    document = {"user": user, **parse.document(profile)}
    if "tags" in document:
        document["tags"] = sorted(document["tags"])
    return document
