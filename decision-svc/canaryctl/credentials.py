"""What canaryctl shows of itself and asks of the service: a token, a certificate, an authority."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from canaryctl.errors import Misuse

SYSTEM = "system"
"""Instead of a file: the authorities that gRPC brings along."""

_TOKEN = re.compile(r"[\x21-\x7e]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """As given; nothing is read before it is needed, and a token never shown."""

    token: str = ""
    token_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""

    def __repr__(self) -> str:
        return "Credentials()"

    @property
    def says_who(self) -> bool:
        """Whether the service knows by them who asks."""
        return bool(self.token or self.token_file or self.tls_cert)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call. Raises Misuse."""
        token = self.token.strip()
        if not token and self.token_file:
            token = _read(self.token_file).decode("utf-8", "replace").strip()
        if not (self.token or self.token_file):
            return ()
        if not _TOKEN.match(token):
            where = "the token" if self.token else self.token_file
            raise Misuse(
                f"{where}: this is no token, which is one word",
                next_step="make one with canaryctl token new",
            )
        return (("authorization", f"Bearer {token}"),)

    def channel(self, address: str, options: list[tuple[str, int]]) -> grpc.Channel:
        """A connection, over TLS if an authority or a certificate is given. Raises Misuse."""
        if not (self.tls_ca or self.tls_cert or self.tls_key):
            return grpc.insecure_channel(address, options=options)
        if bool(self.tls_cert) != bool(self.tls_key):
            raise Misuse("a certificate and its key go together", next_step=_BOTH)
        self._check()
        chosen = grpc.ssl_channel_credentials(
            _read(self.tls_ca) if self.tls_ca not in ("", SYSTEM) else None,
            _read(self.tls_key) if self.tls_key else None,
            _read(self.tls_cert) if self.tls_cert else None,
        )
        return grpc.secure_channel(address, chosen, options=options)

    def _check(self) -> None:
        """gRPC would only say that it cannot connect."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.tls_ca not in ("", SYSTEM):
                context.load_verify_locations(cadata=_read(self.tls_ca).decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise Misuse(f"{self.tls_ca}: no certificate in PEM", next_step=_PEM) from error
        try:
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise Misuse(
                f"{self.tls_cert}, {self.tls_key}: no certificate with its key", next_step=_PEM
            ) from error


_BOTH = "give --tls-cert and --tls-key, or neither"
_PEM = "name files in PEM, the key without a password"


def _read(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise Misuse(
            f"{path}: {error.strerror or error}", next_step="name a file that can be read"
        ) from error
