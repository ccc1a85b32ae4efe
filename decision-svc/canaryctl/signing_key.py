"""The key that overrides are signed with: made here, given to the services, and nobody else's."""

from __future__ import annotations

import os
from base64 import b64encode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from canaryctl.errors import Misuse


def write_key(path: str) -> str:
    """Make a private key in a new file that only its owner reads; the public key, base64."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise Misuse(
            f"{path}: there is such a file", next_step="name a new one; no key is overwritten"
        ) from error
    except OSError as error:
        raise Misuse(
            f"{path}: {error.strerror or error}", next_step="name a file that can be made"
        ) from error
    with os.fdopen(number, "wb") as file:
        file.write(pem)
    return b64encode(key.public_key().public_bytes_raw()).decode()
