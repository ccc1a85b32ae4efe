"""The access file and the keys it names, as they are believed now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from decision_svc.access import credentials
from decision_svc.access.credentials import AccessFile
from decision_svc.access.gate import Believed
from decision_svc.access.jwt import MAX_BYTES, Verifier, check_keys
from decision_svc.errors import BadAccess


class AccessFiles:
    """Reads the access file; ``believe`` gets all that callers are known by, each time anew."""

    def __init__(self, path: str, believe: Callable[[Believed], None]) -> None:
        self._path, self._believe = Path(path), believe
        self._file = AccessFile()
        self._fetched: dict[str, str] = {}
        """Keys by the URL that they came from."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The files to watch."""
        keys = self._jwks_path(self._file)
        return (str(self._path), *([str(keys)] if keys else []))

    @property
    def jwks_url(self) -> str:
        """Where keys are fetched; empty: nowhere."""
        return self._file.jwt.jwks_url if self._file.jwt else ""

    def load(self) -> None:
        """Read anew. Raises BadAccess, and what was believed stays."""
        file = credentials.parse(_text(self._path))
        self._take(file)
        self._file = file

    def hear_keys(self, text: str) -> None:
        """Take over keys that were fetched. Raises BadAccess if they are of no use."""
        check_keys(text)
        self._fetched = {self.jwks_url: text}
        self._take(self._file)

    def _take(self, file: AccessFile) -> None:
        if file.jwt is None:
            self._believe(Believed(file=file))
            return
        path = self._jwks_path(file)
        keys = _text(path) if path else self._fetched.get(file.jwt.jwks_url)
        self._believe(Believed(file=file, jwt=Verifier(file.jwt, keys)))

    def _jwks_path(self, file: AccessFile) -> Path | None:
        """The file of keys; a relative path starts beside the access file."""
        if file.jwt is None or not file.jwt.jwks_file:
            return None
        return self._path.parent / file.jwt.jwks_file


def _text(path: Path) -> str:
    try:
        found = path.read_bytes()
        if len(found) > max(MAX_BYTES, credentials.MAX_BYTES):
            raise BadAccess(f"{path}: the file is too large")
        return found.decode()
    except OSError as error:
        raise BadAccess(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadAccess(f"{path}: not UTF-8") from None
