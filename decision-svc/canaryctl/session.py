"""One run of canaryctl: its global options, its connection, and how it answers."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import click
import grpc
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary.policy.v1 import policy_pb2

from canaryctl import render, written
from canaryctl.client import Answer, Client, Request
from canaryctl.credentials import Credentials
from canaryctl.errors import NEXT_FOR_AN_UNKNOWN_SERVICE, Misuse, Refusal

DEFAULT_ADDRESS = "127.0.0.1:9091"


class Revised(Protocol):
    """The answer to a write."""

    @property
    def revision(self) -> int:
        """The policy's new revision."""
        ...


@dataclass(slots=True, kw_only=True)
class Session:
    """The global options as given, in any place of the command line."""

    address: str = DEFAULT_ADDRESS
    output: str = "table"
    given_actor: str = ""
    timeout_s: float = 5.0
    idempotency_key: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    _client: Client | None = None
    _writes: int = 0
    _read: dict[str, int | None] = field(default_factory=dict)
    """The revisions before the first write of this command, by service key."""

    @property
    def client(self) -> Client:
        """The connection, made when it is first needed."""
        if self._client is None:
            if not self.address:
                raise Misuse("no address is given", next_step="set --address or CANARYCTL_ADDRESS")
            self._client = Client(self.address, self.timeout_s, self.credentials)
        return self._client

    @property
    def credentials(self) -> Credentials:
        """What the service is shown."""
        return Credentials(
            token=self.token,
            token_file=self.token_file,
            tls_ca=self.tls_ca,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
        )

    @property
    def admin(self) -> admin_pb2_grpc.AdminServiceStub:
        """The admin API's methods, for ``call``."""
        return self.client.admin

    @property
    def is_json(self) -> bool:
        """Whether a script reads the answer."""
        return self.output == "json"

    @property
    def actor(self) -> str:
        """Who asks: as given, or whom the credentials name, or else the login name."""
        if self.given_actor or self.credentials.says_who:
            return self.given_actor
        try:
            return getpass.getuser()
        except (KeyError, OSError) as error:
            raise Misuse(
                "who asks? this process has no login name",
                next_step="say who with --actor NAME or CANARYCTL_ACTOR",
            ) from error

    def call(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Answer], request: Request
    ) -> Answer:
        """The service's answer. Raises Refusal."""
        if not is_write(request):
            return self.client.call(method, request)
        service_key = self._begin(request)
        try:
            return self.client.call(method, request)
        except Refusal as refusal:
            if refusal.code != "not-found" or self._read.get(service_key) != 0:
                raise
            raise Refusal(refusal.code, refusal.message, NEXT_FOR_AN_UNKNOWN_SERVICE) from refusal

    def _begin(self, request: Any) -> str:
        """Look at what there is, and give a write its idempotency key: the second is KEY/2.

        Returns the service key.
        """
        key: str = request.change.service_key
        if key not in self._read and key:
            self._read[key] = written.newest(self.client, key)
        self._writes += 1
        if self.idempotency_key:
            place = f"/{self._writes}" if self._writes > 1 else ""
            request.change.idempotency_key = self.idempotency_key + place
        return key

    def policy(self, service: str, revision: int = 0) -> policy_pb2.Policy:
        """The stored policy, at ``revision`` or the current one."""
        request = admin_pb2.GetPolicyRequest(service_key=service, revision=revision)
        return self.call(self.admin.GetPolicy, request).policy

    def check_known(self, service: str) -> None:
        """Raise Refusal unless it has a policy, or a gateway in contact declares it."""
        self.call(
            self.admin.ListChanges, admin_pb2.ListChangesRequest(service_key=service, limit=1)
        )

    def show(self, document: Any, page: Callable[[], Iterable[str]]) -> None:
        """Answer a read: ``document`` for scripts, the blocks of ``page`` for people."""
        if self.is_json:
            click.echo(render.as_json(document))
        else:
            click.echo("\n\n".join(block.rstrip("\n") for block in page()))

    def tell_written(
        self,
        answer: Revised,
        change: admin_pb2.Change,
        said: str,
        warning: str = "",
        **more: Any,
    ) -> None:
        """Answer a write: the new revision, what was done, and who else did something just now.

        ``warning`` is what to mind now, ``more`` what a script is told besides.
        """
        did = self.did(answer, change)
        document = {"service_key": change.service_key, "revision": answer.revision, **more}
        if warning:
            document["warning"] = warning
        text = render.cell(said if did.is_made else "nothing changed")
        head = f"{text} ({change.service_key}, revision {answer.revision})"
        page = [
            "\n".join([head, *written.lines(did)]),
            *([render.cell(warning)] if warning else []),
        ]
        self.show({**document, **written.documents(did)}, lambda: page)

    def did(
        self, answer: Revised, change: admin_pb2.Change, *, is_alone: bool = True
    ) -> written.Told:
        """What a write did, as far as the service says it."""
        write = written.Write(
            service_key=change.service_key,
            reason=change.reason,
            revision=answer.revision,
            read=self._read.get(change.service_key),
            is_alone=is_alone and self._writes == 1,
            is_named=bool(self.idempotency_key),
        )
        return written.told(self.client, write)

    def close(self) -> None:
        """Hang up, if ever connected."""
        if self._client is not None:
            self._client.close()


def is_write(request: Any) -> bool:
    """Whether a request changes the policy of a service key."""
    has_change = hasattr(request, "change") and request.HasField("change")
    return has_change and not getattr(request, "dry_run", False)
