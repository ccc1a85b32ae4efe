"""Lets calls in: who calls, whether they may, and whose change it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from inspect import isasyncgenfunction
from typing import Any
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc.aio import ServerInterceptor

from decision_svc.access import caller as callers
from decision_svc.access.caller import Caller
from decision_svc.access.gate import Gate, OpenStream, Shown, check
from decision_svc.access.jwt import UnknownKey
from decision_svc.access.roles import METHODS, OPEN, Needed
from decision_svc.errors import BadRequest, Forbidden, Unauthenticated
from decision_svc.metrics import Metrics
from decision_svc.rpc.errors import status_of

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Iterable[tuple[str, str | bytes]]
_CERTIFICATE_NAMES = {"uri": "peer_uri", "dns": "peer_dns", "common_name": "x509_common_name"}
# What is refused is logged at most that often, however many try.
LOG_EVERY_S = 1.0


class Admission(ServerInterceptor):
    """Stands before every other interceptor; ``fetch_keys`` looks for the issuer's newest keys."""

    def __init__(
        self, gate: Gate, metrics: Metrics, fetch_keys: Callable[[], Awaitable[object]]
    ) -> None:
        self._gate, self._metrics, self._fetch_keys = gate, metrics, fetch_keys
        self._logged_at, self._unlogged = float("-inf"), 0

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        found = await continuation(handler_call_details)
        method = handler_call_details.method
        if found is None or method in OPEN:
            return found
        handler: Any = found
        metadata: Any = handler_call_details.invocation_metadata or ()
        admitting = _Admitting(self, method, METHODS.get(method, _nobody), metadata)
        # Of a caller whom nobody knows, no byte is parsed: that is done once they are let in.
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                admitting.unary(handler.unary_unary, handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                admitting.answering(handler.unary_stream, handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        if handler.stream_stream is not None:
            # Read message by message, by the handler; so nothing is read before it is let in.
            return grpc.stream_stream_rpc_method_handler(
                admitting.streaming(handler.stream_stream),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        raise AssertionError(f"{method} takes a stream and answers once; no service has that")

    async def who(self, shown: Shown) -> Caller:
        """Who calls. Raises Unauthenticated."""
        try:
            return self._gate.who(shown)
        except UnknownKey:
            await self._fetch_keys()
            return self._gate.who(shown)

    def watching(self, stream: OpenStream) -> Any:
        """See Gate."""
        return self._gate.watching(stream)

    async def refuse(self, context: Context, method: str, peer: str, error: Exception) -> None:
        """Answer the refusal, count it, and say so in the log."""
        code, text = status_of(error)
        self._metrics.refused_calls.labels(code.name).inc()
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            log.warning(
                "call refused",
                method=method,
                peer=peer,
                code=code.name,
                why=text,
                others=self._unlogged,
            )
            self._logged_at, self._unlogged = now, 0
        else:
            self._unlogged += 1
        await context.abort(code, text)


class _Admitting:
    """One call on its way in."""

    def __init__(
        self, admission: Admission, method: str, needed: Needed, metadata: Metadata
    ) -> None:
        self._admission, self._method = admission, method
        self._needed, self._metadata = needed, metadata

    def unary(self, call: Any, parse: Any) -> Any:
        """A call with one request and one answer."""

        async def admit(raw: bytes, context: Context) -> Any:
            shown = _shown(self._metadata, context)
            try:
                caller = await self._admission.who(shown)
                request = _parsed(raw, parse)
                check(caller, self._needed(request))
                _name_actor(request, caller)
            except (Unauthenticated, Forbidden, BadRequest) as error:
                return await self._admission.refuse(context, self._method, shown.peer, error)
            callers.enter(caller)  # each call has a context of its own
            return await call(request, context)

        return admit

    def answering(self, call: Any, parse: Any) -> Any:
        """A call with one request and a stream of answers."""

        async def admit(raw: bytes, context: Context) -> AsyncIterator[Any]:
            opened = await self._opened(context, lambda: _parsed(raw, parse))
            if opened is not None:
                stream, request = opened
                async with aclosing(self._relayed(call(request, context), stream, context)) as all_:
                    async for answer in all_:
                        yield answer

        return admit

    def streaming(self, call: Any) -> Any:
        """A call with a stream each way."""

        async def relay(requests: Any, context: Context) -> AsyncIterator[Any]:
            opened = await self._opened(context, lambda: None)
            if opened is not None:
                answers = self._relayed(call(requests, context), opened[0], context)
                async with aclosing(answers) as all_:
                    async for answer in all_:
                        yield answer

        async def run(requests: Any, context: Context) -> None:
            opened = await self._opened(context, lambda: None)
            if opened is not None:
                stream = opened[0]
                try:
                    with self._admission.watching(stream):
                        await call(requests, context)
                except asyncio.CancelledError:
                    await self._ended(stream, context)

        return relay if isasyncgenfunction(call) else run

    async def _opened(
        self, context: Context, parse: Callable[[], Message | None]
    ) -> tuple[OpenStream, Message | None] | None:
        """The stream and its one request, if it has one; None if it was refused."""
        shown = _shown(self._metadata, context)
        try:
            caller = await self._admission.who(shown)
            request = parse()
            need = self._needed(request)
            check(caller, need)
        except (Unauthenticated, Forbidden, BadRequest) as error:
            await self._admission.refuse(context, self._method, shown.peer, error)
            return None
        callers.enter(caller)
        task = asyncio.current_task()
        assert task is not None
        return OpenStream(shown, need, task.cancel), request

    async def _relayed(
        self, answers: AsyncGenerator[Any, None], stream: OpenStream, context: Context
    ) -> AsyncGenerator[Any, None]:
        """The answers, until there are no more or the credentials are withdrawn."""
        try:
            with self._admission.watching(stream):
                async with aclosing(answers):
                    async for answer in answers:
                        yield answer
        except asyncio.CancelledError:
            await self._ended(stream, context)

    async def _ended(self, stream: OpenStream, context: Context) -> None:
        """After a cancellation: say why, if it was ours. Raises CancelledError if it was not."""
        task = asyncio.current_task()
        if stream.withdrawn is None or task is None or task.uncancel() > 0:
            raise asyncio.CancelledError
        await self._admission.refuse(context, self._method, stream.shown.peer, stream.withdrawn)


def _nobody(_: Any) -> Any:
    raise Forbidden("nobody may call this: it has no role here")


def _parsed(raw: bytes, parse: Callable[[bytes], Message]) -> Message:
    try:
        return parse(raw)
    except DecodeError:
        raise BadRequest("the request cannot be read; use this service's protos") from None


def _name_actor(request: Any, caller: Caller) -> None:
    """Make the actor of a change who the credentials say. Raises BadRequest for another one."""
    if caller.is_insecure:
        return
    fields = request.DESCRIPTOR.fields_by_name
    holder = request.change if "change" in fields else request
    if "actor" not in holder.DESCRIPTOR.fields_by_name:
        return
    if holder.actor not in ("", caller.name):
        raise BadRequest(
            f"actor: by your credentials you are {caller.name!r}; give that name, or none"
        )
    holder.actor = caller.name


def _shown(metadata: Metadata, context: Context) -> Shown:
    authorization = tuple(
        value if isinstance(value, str) else value.decode("ascii", "replace")
        for key, value in metadata
        if key == "authorization"
    )
    return Shown(
        peer=_peer(context.peer()), authorization=authorization, certificate=_certificate(context)
    )


def _certificate(context: Context) -> tuple[tuple[str, str], ...] | None:
    found: Any = context.auth_context()
    if not found or "x509_subject" not in found:
        return None
    return tuple(
        (kind, name.decode(errors="replace"))
        for kind, property_ in _CERTIFICATE_NAMES.items()
        for name in found.get(property_, ())
    )


def _peer(said: str | None) -> str:
    """gRPC's peer, e.g. "ipv4:10.0.0.7:41234", as people write it."""
    kind, _, rest = unquote(said or "").partition(":")
    return rest if kind in ("ipv4", "ipv6") else f"{kind}:"
