"""What the plugin server shows the decision service, and whom it takes the service to be."""

from __future__ import annotations

import logging
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("canary_plugin")

_TOKEN = re.compile(r"[\x21-\x7e]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFiles:
    """Where the token, our certificate and the service's authority are; "" for none."""

    token: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""


NO_CREDENTIALS = CredentialFiles()


class Credentials:
    """Reads the token again when its file changes; certificates, for each new connection."""

    def __init__(self, files: CredentialFiles = NO_CREDENTIALS) -> None:
        self._files = files
        self._read: tuple[int, int] | None = None
        self._token = self._trouble = ""
        if bool(files.certificate) != bool(files.key):
            raise ValueError("--tls-cert, --tls-key: give both or none")
        self.ssl_context()

    @property
    def is_secure(self) -> bool:
        """Whether connections are TLS."""
        return bool(self._files.ca or self._files.certificate)

    @property
    def has_token(self) -> bool:
        """Whether calls carry a token."""
        return bool(self._files.token)

    def authorization(self) -> str:
        """What goes with every call; "" for nothing."""
        if not self.has_token:
            return ""
        try:
            stat = os.stat(self._files.token)
            found = (stat.st_mtime_ns, stat.st_ino)
            if found != self._read:
                token = Path(self._files.token).read_text(errors="replace").strip()
                if not _TOKEN.match(token):
                    raise ValueError("it holds no token, which is one word")
                self._read, self._token = found, token
        except (OSError, ValueError) as error:
            if str(error) != self._trouble:
                log.error("--token-file: %s", error)
            self._trouble = str(error)
        else:
            self._trouble = ""
        return f"Bearer {self._token}" if self._token else ""

    def ssl_context(self) -> ssl.SSLContext | None:
        """For one connection; None without TLS. Raises ValueError for files that are no use."""
        files = self._files
        if not self.is_secure:
            return None
        try:
            context = ssl.create_default_context(cafile=files.ca or None)
            if files.certificate:
                context.load_cert_chain(files.certificate, files.key, password="")
        except (ssl.SSLError, OSError) as error:
            raise ValueError(f"--tls-ca, --tls-cert, --tls-key: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        return context

    def pems(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Authority, key and certificate, None for those that are not given."""
        files = (self._files.ca, self._files.key, self._files.certificate)
        ca, key, certificate = (Path(path).read_bytes() if path else None for path in files)
        return ca, key, certificate
