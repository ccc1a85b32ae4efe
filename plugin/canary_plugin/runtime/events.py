"""Events as greenlets: plugin code reads top to bottom while the loop serves everybody else.

A phase runs in a greenlet until it needs something: a PDK call, which Kong makes and answers
with a step, or an awaitable, which the loop waits for. In between nothing is held: no thread,
no lock, no task. An exception ends the one event it happens in, and Kong goes on.

Greenlets are used again: making one maps memory, and giving it up unmaps it, which together took
longer than all else that an event costs here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from greenlet import GreenletExit, getcurrent

from canary_plugin.runtime.pdk import Runner, hub, kong
from canary_plugin.troubles import Troubles

T = TypeVar("T")
Reply = Callable[[dict[str, Any]], None]
Phase = Callable[[Any], None]

END = "ret"
_ENDED = object()
"""What a greenlet switches to the loop with when its phase is over."""
MAX_THROWS = 100
MAX_IDLE = 256


class _Event:
    __slots__ = ("id", "is_interrupted", "reply", "runner", "started", "task")

    def __init__(self, id_: int, started: float, runner: Runner, reply: Reply) -> None:
        self.id, self.started = id_, started
        self.runner: Runner | None = runner
        self.reply: Reply | None = reply
        self.task: asyncio.Future[Any] | None = None
        self.is_interrupted = False


class Events:
    """The events in progress. ``clock`` gives seconds and only grows.

    An event that keeps Kong waiting for longer than ``limit_s`` is interrupted: its ``finally``
    may still call Kong, once. One that waits even then, or whose next step Kong has not sent for
    ``patience_s`` (it is gone), is dropped.
    """

    def __init__(
        self,
        troubles: Troubles,
        clock: Callable[[], float],
        *,
        limit_s: float,
        patience_s: float = 65.0,
    ) -> None:
        self._troubles, self._clock = troubles, clock
        self._limit_s, self._patience_s = limit_s, patience_s
        self._events: dict[int, _Event] = {}
        self._idle: list[Runner] = []
        self._next = secrets.randbelow(1 << 48)
        self.emptied = asyncio.Event()
        self.emptied.set()

    def __len__(self) -> int:
        return len(self._events)

    def start(self, phase: Phase, reply: Reply) -> None:
        """Run a phase until it needs something; ``reply`` gets what Kong is to do next."""
        runner = self._idle.pop() if self._idle else _runner()
        event = _Event(self._next, self._clock(), runner, reply)
        self._next += 1
        self._events[event.id] = event
        self.emptied.clear()
        self._run(event, runner.switch, phase)

    def step(self, id_: int, result: tuple[Any, Any], reply: Reply) -> None:
        """Go on with the result of a PDK call: (data, error). Raises LookupError."""
        event = self._events.get(id_)
        if event is None or event.reply is not None or event.runner is None:
            raise LookupError(f"event id {id_} not found")
        event.started, event.reply = self._clock(), reply
        self._run(event, event.runner.switch, result)

    def sweep(self) -> None:
        """Interrupt what keeps Kong waiting and drop what Kong has left."""
        now = self._clock()
        for event in list(self._events.values()):
            waited = now - event.started
            if event.reply is not None and waited > self._limit_s:
                self._troubles.count("too-long", f"an event took over {self._limit_s} s")
                self._interrupt(event, now)
            elif event.reply is None and waited > self._patience_s:
                self._troubles.count("left-by-kong", "Kong did not go on with an event")
                self._drop(event)

    def drop_all(self) -> None:
        """End every event; whoever waits for one goes on."""
        for event in list(self._events.values()):
            self._drop(event)

    def _run(self, event: _Event, switch: Callable[..., Any], with_: Any) -> None:
        try:
            self._go_on(event, switch(with_))
        except Exception as error:  # a bug in a phase must cost no more than its request
            self._failed(error)
            self._drop(event)

    def _go_on(self, event: _Event, needed: Any) -> None:
        if isinstance(needed, dict):
            self._answer(event, needed)
        elif needed is _ENDED:
            self._finish(event, self._ended(event))
        else:
            event.task = asyncio.ensure_future(needed)
            event.task.add_done_callback(lambda task: self._waited(event, task))

    def _ended(self, event: _Event) -> Any:
        """Take the greenlet back; what Kong is told at the end of the event."""
        runner, event.runner = event.runner, None
        assert runner is not None, "it has just run"
        call, runner.call = runner.call, None
        error, runner.failure = runner.failure, None
        if len(self._idle) < MAX_IDLE:
            self._idle.append(runner)
        if error is None:
            return call or END
        self._failed(error)
        return END

    def _waited(self, event: _Event, task: asyncio.Future[Any]) -> None:
        if event.task is not task or event.runner is None:  # interrupted or dropped: too late
            if not task.cancelled():
                task.exception()
            return
        event.task = None
        if task.cancelled():
            self._run(event, event.runner.throw, TimeoutError("cancelled"))
        elif (error := task.exception()) is not None:
            self._run(event, event.runner.throw, error)
        else:
            self._run(event, event.runner.switch, task.result())

    def _answer(self, event: _Event, data: Any) -> None:
        if event.reply is not None:
            event.reply({"Data": data, "EventId": event.id})
            event.reply = None

    def _finish(self, event: _Event, data: Any) -> None:
        self._events.pop(event.id, None)
        if not self._events:
            self.emptied.set()
        self._answer(event, data)

    def _interrupt(self, event: _Event, now: float) -> None:
        if event.is_interrupted or event.runner is None:
            self._drop(event)
            return
        event.is_interrupted, event.started = True, now
        self._forget_task(event)
        self._run(event, event.runner.throw, GreenletExit)

    def _drop(self, event: _Event) -> None:
        self._finish(event, END)
        self._forget_task(event)
        for _ in range(MAX_THROWS):  # what a ``finally`` asks of Kong now, nobody answers
            if event.runner is None:
                return
            needed = event.runner.throw(GreenletExit)
            if needed is _ENDED:
                self._ended(event)
            elif asyncio.iscoroutine(needed):
                needed.close()

    def _forget_task(self, event: _Event) -> None:
        task, event.task = event.task, None
        if task is not None:
            task.cancel()

    def _failed(self, error: Exception) -> None:
        self._troubles.count("plugin-error", f"{type(error).__name__}: {error}{_where(error)}")


def wait(awaitable: Awaitable[T]) -> T:
    """In a phase: wait for ``awaitable`` on the loop while other events go on."""
    return hub().switch(awaitable)  # type: ignore[no-any-return]


def _runner() -> Runner:
    runner = Runner(_serve)
    runner.switch()
    return runner


def _serve() -> None:
    """Run one phase after the other; between two of them nothing of theirs is kept."""
    runner = getcurrent()
    assert isinstance(runner, Runner)
    while True:
        phase = hub().switch(_ENDED)
        try:
            phase(kong)
        except GreenletExit:  # interrupted or dropped
            pass
        except Exception as error:
            runner.failure = error
        del phase


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"
