"""Override tokens for tests, signed with a key that everybody knows."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
from canary_engine.model import Overrides, RevokedOverride
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PUBLIC_KEY = b64encode(KEY.public_key().public_bytes_raw()).decode()
HEADER, COOKIE = "x-canary-override", "canary_override"
LATER = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
BELIEVED = Overrides(
    public_key=PUBLIC_KEY,
    revoked=(RevokedOverride(id="o-gone", expires_at=datetime(2100, 1, 1, tzinfo=UTC)),),
)


def token(key: Ed25519PrivateKey = KEY, **claims: Any) -> str:
    """A token for the canary of service key "shop", unless ``claims`` say otherwise; None leaves
    a claim out.
    """
    said = {"aud": "shop", "exp": LATER, "jti": "o-1", "variant": "canary", **claims}
    return signed({name: value for name, value in said.items() if value is not None}, key)


def signed(claims: Mapping[str, Any], key: Ed25519PrivateKey = KEY) -> str:
    """Any claims, signed."""
    return jwt.encode(dict(claims), key, algorithm="EdDSA")


def key_file(folder: Path) -> str:
    """The key as the service reads it."""
    path = folder / "signing-key.pem"
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(path)
