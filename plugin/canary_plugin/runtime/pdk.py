"""kong-pdk's ``kong`` object, made once: every attribute path of it is a call to Kong.

kong-pdk makes the object, and every step of a path, anew for each event, because its channel
belongs to one. Ours belongs to whichever greenlet runs, so one object serves all events and a path
is built the first time it is used.
"""

from __future__ import annotations

from typing import Any

from greenlet import getcurrent, greenlet
from kong_pdk.pdk import FakeClasses, rpc_of

_GONE = "event is over"


class Runner(greenlet):
    """A greenlet that runs phases. ``call`` is what Kong is asked for next, ``failure`` what
    the phase ended with.
    """

    call: dict[str, Any] | None = None
    failure: Exception | None = None


def hub() -> greenlet:
    """Where the current greenlet was started from: the loop."""
    parent = getcurrent().parent
    if parent is None:
        raise RuntimeError(_GONE)
    return parent


class _Channel:
    """What kong-pdk speaks to: put a call; get its result, unless the call ends the request."""

    def put(self, call: dict[str, Any]) -> None:
        getcurrent().call = call  # type: ignore[attr-defined]  # a Runner

    def get(self) -> tuple[Any, Any]:
        runner = getcurrent()
        call, runner.call = runner.call, None  # type: ignore[attr-defined]
        return hub().switch(call)  # type: ignore[no-any-return]


class _Path(FakeClasses):  # type: ignore[misc]  # kong-pdk is untyped
    """An attribute path, kept where it was found."""

    def __getattr__(self, name: str) -> _Path:
        path = _Path(f"{self.prefix}.{name}", self.call)
        setattr(self, name, path)
        return path


kong = _Path("kong", rpc_of(_Channel(), lua_style=False))
