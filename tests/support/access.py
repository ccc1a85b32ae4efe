"""Tokens and access files for tests, and channels that show them."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc


class Tokens:
    """Makes tokens and keeps an access file that knows them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document: dict[str, Any] = {"tokens": []}

    def new(self, name: str, roles: Mapping[str, str], **more: Any) -> str:
        """A token that the file knows once it is written."""
        token = f"canary_{secrets.token_urlsafe(32)}"
        sha256 = hashlib.sha256(token.encode()).hexdigest()
        self.document["tokens"].append(
            {"name": name, "sha256": sha256, "roles": dict(roles), **more}
        )
        return token

    def write(self, **more: Any) -> str:
        """Replace the file, as a secret's volume does; its path. JSON is YAML."""
        self.document |= more
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(self.document))
        fresh.rename(self.path)
        return str(self.path)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """What a caller with the token sends."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def refused(error: grpc.RpcError) -> bool:
    """Whether it was refused for who called."""
    return error.code() in (
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    )
