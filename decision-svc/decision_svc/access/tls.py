"""The service's certificate, its key, and the authority of its clients: three files read as one."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from decision_svc.errors import BadAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class Pems:
    """What is in the files; ``client_ca`` is empty where clients need no certificate."""

    certificate: bytes
    key: bytes
    client_ca: bytes


class TlsFiles:
    """Reads the files and keeps what they said last when they were right."""

    def __init__(self, certificate: str, key: str, client_ca: str) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self.pems: Pems

    @property
    def paths(self) -> tuple[str, ...]:
        """The files to watch."""
        return tuple(p for p in (self._certificate, self._key, self._client_ca) if p)

    def load(self) -> None:
        """Read anew. Raises BadAccess, and keeps what there was."""
        pems = self._read()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certificate, self._key, password="")
        except (ssl.SSLError, OSError, ValueError):
            raise BadAccess(
                f"{self._certificate}, {self._key}: no certificate with its key, both PEM, "
                "the key without a password"
            ) from None
        if pems.client_ca:
            try:
                context.load_verify_locations(cadata=pems.client_ca.decode())
            except (ssl.SSLError, ValueError):
                raise BadAccess(f"{self._client_ca}: no certificate in PEM") from None
        if self._read() != pems:
            raise BadAccess(f"{self._certificate}: it changed while it was read")
        self.pems = pems

    def _read(self) -> Pems:
        try:
            return Pems(
                certificate=Path(self._certificate).read_bytes(),
                key=Path(self._key).read_bytes(),
                client_ca=Path(self._client_ca).read_bytes() if self._client_ca else b"",
            )
        except OSError as error:
            raise BadAccess(f"{error.filename}: {error.strerror}") from None
