"""A cluster by its API server: two verbs over HTTP, each with a deadline.

https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from canary_istio.cluster import MANAGER, Object
from canary_istio.errors import Conflict, Denied, Raced, Unreachable
from canary_istio.routes import API_VERSION

DEADLINE_S = 5.0
MAX_SHOWN = 300
PLURALS = {"VirtualService": "virtualservices", "DestinationRule": "destinationrules"}

_APPLY = "application/apply-patch+yaml"
_NOT_NOW = frozenset({408, 429})


class ApiServer:
    """The API server at ``url``; ``session`` knows its authority.

    The token's file is read for every call: a cluster replaces it each hour.
    """

    def __init__(
        self,
        session: ClientSession,
        url: str,
        *,
        token_file: str = "",
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._session, self._url, self._token_file = session, url.rstrip("/"), token_file
        self._timeout, self._deadline_s = ClientTimeout(total=deadline_s), deadline_s

    async def read(self, kind: str, namespace: str, name: str) -> Object | None:
        """See Cluster."""
        status, said = await self._ask("GET", _path(kind, namespace, name))
        if status == 404 and _details(said).get("name") == name:
            return None
        _check(status, said)
        return said

    async def apply(self, wanted: Object, *, force: bool) -> None:
        """See Cluster."""
        metadata = wanted["metadata"]
        path = _path(wanted["kind"], metadata["namespace"], metadata["name"])
        query = f"fieldManager={MANAGER}&force={str(force).lower()}"
        # JSON is YAML.
        body = json.dumps(wanted).encode()
        _check(*await self._ask("PATCH", f"{path}?{query}", body, {"Content-Type": _APPLY}))

    async def _ask(
        self, verb: str, path: str, body: bytes | None = None, more: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """The status and the document of an answer. Raises Unreachable."""
        try:
            headers = {"Accept": "application/json", **self._authorization(), **(more or {})}
            async with self._session.request(
                verb,
                self._url + path,
                data=body,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
            ) as answer:
                text = await answer.read()
                return answer.status, _document(answer.status, text)
        except TimeoutError as error:
            why = f"the API server did not answer within {self._deadline_s:g} s"
            raise Unreachable(why) from error
        except (ClientError, OSError) as error:
            why = f"the API server cannot be reached: {error or type(error).__name__}"
            raise Unreachable(why[:MAX_SHOWN]) from error

    def _authorization(self) -> dict[str, str]:
        if not self._token_file:
            return {}
        token = Path(self._token_file).read_text("ascii").strip()
        return {"Authorization": f"Bearer {token}"}


def _path(kind: str, namespace: str, name: str) -> str:
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURALS[kind]}/{name}"


def _document(status: int, text: bytes) -> dict[str, Any]:
    """An object or a Status; what is neither has no more than a message."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    if status < 300:
        raise Unreachable("the API server's answer is no object")
    return {"message": text.decode("utf-8", "replace").strip()}


def _check(status: int, said: dict[str, Any]) -> None:
    if status < 300:
        return
    message = f"the API server said {status}: {said.get('message') or 'nothing'}"[:MAX_SHOWN]
    if status == 409:
        causes = tuple(_causes(said))
        raise Conflict(*causes) if causes else Raced(message)
    if status >= 500 or status in _NOT_NOW:
        raise Unreachable(message)
    raise Denied(message)


def _details(said: dict[str, Any]) -> dict[str, Any]:
    found = said.get("details")
    return found if isinstance(found, dict) else {}


def _causes(said: dict[str, Any]) -> Iterator[str]:
    for cause in _details(said).get("causes") or []:
        if cause.get("reason") == "FieldManagerConflict":
            yield f"{cause.get('field', '?')}: {cause.get('message', 'conflict')}"
