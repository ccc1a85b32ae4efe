"""Exceptions to status codes, in one table, for every call of the service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog
from canary_documents import DocumentError, unknown_fields
from canary_engine.errors import CanaryError, InvalidPolicy, RefusedMove
from google.protobuf.message import Message
from grpc.aio import ServerInterceptor

from decision_svc.errors import (
    AlreadyExists,
    BadRequest,
    Forbidden,
    NotFound,
    NotReady,
    OverrideRefused,
    Unauthenticated,
)
from decision_svc.records.protocol import TooLate
from decision_svc.reported.protocol import TooManySeries
from decision_svc.rpc.convert import wrong_times
from decision_svc.store.protocol import LostRace, StoreError, StoreUnavailable

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

# The first entry that fits counts, so a class stands before its base.
STATUS: dict[type[Exception], grpc.StatusCode] = {
    InvalidPolicy: grpc.StatusCode.INVALID_ARGUMENT,
    DocumentError: grpc.StatusCode.INVALID_ARGUMENT,
    BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    RefusedMove: grpc.StatusCode.FAILED_PRECONDITION,
    OverrideRefused: grpc.StatusCode.FAILED_PRECONDITION,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    LostRace: grpc.StatusCode.ABORTED,
    TooLate: grpc.StatusCode.FAILED_PRECONDITION,
    TooManySeries: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    StoreError: grpc.StatusCode.DATA_LOSS,
}
# gRPC carries the message percent-encoded in a header block that clients limit to 8 KiB.
_MAX_MESSAGE = 4_000


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status code and the text for a client."""
    for kind, code in STATUS.items():
        if isinstance(error, kind):
            return code, _text(error)
    return grpc.StatusCode.INTERNAL, "internal error; the service's log says more"


def _text(error: Exception) -> str:
    complaints = getattr(error, "complaints", ())
    text = str(error) if len(complaints) < 2 else _listed(complaints)
    return _shortened(text)


def _shortened(text: str) -> str:
    """The beginning of the text that a message holds, three bytes for each byte beyond ASCII."""
    room = _MAX_MESSAGE
    for index, character in enumerate(text):
        room -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if room < 0:
            return text[:index] + " …"
    return text


def _listed(complaints: tuple[str, ...]) -> str:
    return f"{len(complaints)} problems: " + "; ".join(complaints)


class RefusalInterceptor(ServerInterceptor):
    """Answers exceptions with their status, and refuses fields that the protos do not know."""

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            _answering(handler.unary_unary, handler_call_details.method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _answering(call: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
    async def answer(request: Message, context: Context) -> Any:
        try:
            complaints = [f"{line}; use this service's protos" for line in unknown_fields(request)]
            complaints += wrong_times(request)
            if complaints:
                raise BadRequest(*complaints)
            return await call(request, context)
        except CanaryError as error:
            code, text = status_of(error)
        except DocumentError as error:
            code, text = status_of(error)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            log.exception("call failed", method=method)
            code, text = status_of(error)
        return await context.abort(code, text)

    return answer
