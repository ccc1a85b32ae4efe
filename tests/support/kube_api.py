"""An API server for two kinds of Istio's objects: server-side apply with its owners and conflicts.

It enforces what a real one does where routes are kept: who may do what, content types, field
managers, optimistic locks, and that a field which one manager has set is another's only by force.
Lists are whole fields here as they are in Istio's definitions.
"""

from __future__ import annotations

import asyncio
import copy
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Object = dict[str, Any]
Path = tuple[str, ...]

KINDS = {"virtualservices": "VirtualService", "destinationrules": "DestinationRule"}
ROUTE = "/apis/networking.istio.io/v1beta1/namespaces/{namespace}/{plural}/{name}"
APPLY = "application/apply-patch+yaml"
TOKEN = "a-token"


@dataclass(slots=True)
class Stored:
    """An object's fields, and who has set each."""

    fields: dict[Path, Any] = field(default_factory=dict)
    owners: dict[Path, set[str]] = field(default_factory=dict)
    version: int = 0


class Failure(Exception):  # noqa: N818 - it is an answer
    """A Status that is not a success."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        self.code = code
        self.status = {
            "kind": "Status", "status": "Failure", "code": code, "reason": reason,
            "message": message, "details": details,
        }  # fmt: skip
        super().__init__(message)


class KubeApi:
    """The server's state; ``url`` is where it listens."""

    _runner: web.AppRunner | None

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.url = ""
        self.verbs = {"get", "create", "patch"}
        """What the token's owner may do."""
        self.role: Mapping[str, set[str]] | None = None
        """The same by plural, as a Role says it."""
        self.written: list[tuple[int, Object]] = []
        """Each VirtualService that was applied: the revision it names, and what it then was."""
        self.is_installed = True
        self.answers: list[web.Response] = []
        """Given instead of what is asked for, the first first."""
        self.hang: asyncio.Event | None = None
        """While it is not set, nothing is answered."""
        self.requests: list[str] = []
        self.answered = 0
        self._stored: dict[tuple[str, str], Stored] = {}
        self._version = 0
        self._tls, self._runner, self._port = tls, None, 0

    async def start(self) -> None:
        """Listen on a free port of the loopback interface, or the one of before."""
        app = web.Application()
        app.router.add_route("*", ROUTE, self.handle)
        self._runner = runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port, ssl_context=self._tls).start()
        self._port = runner.addresses[0][1]
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Be gone; what is stored stays."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def spec(self, kind: str, name: str) -> Object:
        """An object's spec as it is."""
        found: Object = self._read(kind, name)["spec"]
        return found

    def annotations(self, kind: str, name: str) -> dict[str, str]:
        """An object's annotations."""
        found: dict[str, str] = self._read(kind, name)["metadata"].get("annotations", {})
        return found

    def put(self, kind: str, name: str, manager: str, **spec: Any) -> None:
        """Somebody makes an object."""
        self._stored[kind, name] = Stored()
        self.edit(kind, name, manager, **spec)

    def edit(self, kind: str, name: str, manager: str, **spec: Any) -> None:
        """Somebody sets fields of the spec as ``kubectl edit`` does: they are theirs then."""
        stored = self._stored[kind, name]
        for key, value in spec.items():
            self._set(stored, ("spec", key), value, {manager})
        self._touch(stored)

    def delete(self, kind: str, name: str) -> None:
        """Somebody deletes an object, if it is there."""
        self._stored.pop((kind, name), None)

    def managers(self, kind: str, name: str, *path: str) -> set[str]:
        """Who has set a field."""
        return self._stored[kind, name].owners[path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.requests.append(f"{request.method} {request.match_info.get('plural', '')}")
        if self.hang is not None:
            await self.hang.wait()
        self.answered += 1
        if self.answers:
            return self.answers.pop(0)
        try:
            return await self._answer(request)
        except Failure as failure:
            return web.json_response(failure.status, status=failure.code)

    async def _answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Failure(401, "Unauthorized", "Unauthorized")
        kind = KINDS.get(request.match_info["plural"])
        if kind is None or not self.is_installed:
            return web.Response(status=404, text="404 page not found\n")
        name = request.match_info["name"]
        if request.method == "GET":
            self._allow("get", request)
            return web.json_response(self._read(kind, name))
        return await self._apply(request, kind, name)

    def _allow(self, verb: str, request: web.Request) -> None:
        plural = request.match_info["plural"]
        if verb not in (self.verbs if self.role is None else self.role.get(plural, ())):
            raise Failure(403, "Forbidden", f'cannot {verb} resource "{plural}" in API group')

    async def _apply(self, request: web.Request, kind: str, name: str) -> web.Response:
        self._allow("patch", request)
        if request.content_type != APPLY:
            raise Failure(415, "UnsupportedMediaType", "the body must be an apply patch")
        manager, force = request.query.get("fieldManager"), request.query.get("force") == "true"
        if not manager:
            raise Failure(400, "BadRequest", "fieldManager is required for apply patch")
        wanted = json.loads(await request.read())
        self._check(wanted, kind, request)
        if (kind, name) not in self._stored:
            self._allow("create", request)
        locked = wanted["metadata"].pop("resourceVersion", None)
        stored = self._stored.get((kind, name))
        if locked is not None and (stored is None or locked != str(stored.version)):
            raise Failure(409, "Conflict", "the object has been modified; apply your changes again")
        stored = self._stored.setdefault((kind, name), Stored())
        self._merge(stored, dict(_fields(wanted)), manager, force=force)
        self._touch(stored)
        if kind == "VirtualService":
            revision = self.annotations(kind, name).get("canary-release/revision", "0")
            self.written.append((int(revision), self.spec(kind, name)))
        return web.json_response(self._read(kind, name))

    def _check(self, wanted: Object, kind: str, request: web.Request) -> None:
        expected = (
            "networking.istio.io/v1beta1", kind,
            request.match_info["name"], request.match_info["namespace"],
        )  # fmt: skip
        metadata = wanted["metadata"]
        said = (wanted["apiVersion"], wanted["kind"], metadata["name"], metadata["namespace"])
        if said != expected:
            raise Failure(400, "BadRequest", f"the body is of {said}, the address of {expected}")

    def _merge(
        self, stored: Stored, wanted: Mapping[Path, Any], manager: str, *, force: bool
    ) -> None:
        causes = [
            {
                "reason": "FieldManagerConflict",
                "message": f'conflict with "{other}"',
                "field": "." + ".".join(path),
            }
            for path, value in wanted.items()
            if path in stored.fields and stored.fields[path] != value
            for other in sorted(stored.owners[path] - {manager})
        ]
        if causes and not force:
            message = f"Apply failed with {len(causes)} conflict(s)"
            raise Failure(409, "Conflict", message, causes=causes)
        for path in [p for p, owners in stored.owners.items() if manager in owners]:
            if path not in wanted:
                self._release(stored, path, manager)
        for path, value in wanted.items():
            is_shared = path in stored.fields and stored.fields[path] == value
            owners = stored.owners[path] | {manager} if is_shared else {manager}
            self._set(stored, path, value, owners)

    @staticmethod
    def _set(stored: Stored, path: Path, value: Any, owners: set[str]) -> None:
        stored.fields[path], stored.owners[path] = copy.deepcopy(value), owners

    @staticmethod
    def _release(stored: Stored, path: Path, manager: str) -> None:
        stored.owners[path] = stored.owners[path] - {manager}
        if not stored.owners[path]:
            del stored.owners[path], stored.fields[path]

    def _touch(self, stored: Stored) -> None:
        self._version += 1
        stored.version = self._version

    def _read(self, kind: str, name: str) -> Object:
        stored = self._stored.get((kind, name))
        if stored is None:
            plural = next(p for p, k in KINDS.items() if k == kind)
            raise Failure(404, "NotFound", f'{plural} "{name}" not found', name=name)
        found: Object = {"apiVersion": "networking.istio.io/v1beta1", "kind": kind}
        for path, value in stored.fields.items():
            inside = found
            for part in path[:-1]:
                inside = inside.setdefault(part, {})
            inside[path[-1]] = copy.deepcopy(value)
        found["metadata"] = {
            "name": name, "namespace": "shop", "resourceVersion": str(stored.version),
            **found.get("metadata", {}),
        }  # fmt: skip
        return found


def _fields(thing: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The fields that can be owned: of mappings each, lists whole."""
    for key, value in thing.items():
        here = (*path, key)
        if here[0] in ("apiVersion", "kind") or here in (("metadata", "name"),):
            continue
        if here == ("metadata", "namespace"):
            continue
        if isinstance(value, dict):
            yield from _fields(value, here)
        else:
            yield here, value


@asynccontextmanager
async def running_kube_api(tls: ssl.SSLContext | None = None) -> AsyncIterator[KubeApi]:
    """A server on a free port of the loopback interface."""
    api = KubeApi(tls)
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
