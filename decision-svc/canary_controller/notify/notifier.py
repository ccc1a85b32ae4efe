"""Tells notices over channels in the background; a dead channel makes nobody else wait.

Each channel has a queue and tries of its own. People count as told when one channel has delivered,
or when all have given up: then it is in the log and in the counts, and nothing waits any more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog
from canary_engine.alerts import Notice
from canary_engine.record import Severity

from canary_controller.notify.settings import NotifySettings
from canary_controller.notify.wording import About, Message, message

if TYPE_CHECKING:  # who has no channels starts without it
    from apprise import Apprise

PAUSES_S = (1.0, 5.0, 30.0, 120.0)
"""How long a channel pauses after each try that failed; after the last it gives up."""
MOST_WAITING = 1_000
MOST_REMEMBERED = 10_000
MOST_THREADS = 8

_KINDS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "failure"}
"""How apprise calls them; what is over is its "success"."""
_log = structlog.get_logger()


class Counts(Protocol):
    """What is counted of each channel."""

    def delivered(self, channel: str) -> None:
        """A message went out."""
        ...

    def failed(self, channel: str) -> None:
        """A try failed; there may be another."""
        ...

    def lost(self, channel: str) -> None:
        """A channel gave a message up, or had no room for it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """That people have been told; ``by`` is the first channel that did, "" if none could."""

    about: About
    notice: Notice
    by: str


@dataclass(slots=True, kw_only=True)
class _Sending:
    """A message on its way, and over how many channels it may still arrive."""

    about: About
    notice: Notice
    message: Message
    left: int
    is_told: bool = False


class Notifier:
    """Everything that people are being told. Make it and use it in one loop."""

    def __init__(
        self,
        settings: NotifySettings,
        counts: Counts,
        *,
        pauses_s: tuple[float, ...] = PAUSES_S,
        deliver: Callable[[Apprise, Message, str], bool] | None = None,
    ) -> None:
        self._settings, self._counts, self._pauses_s = settings, counts, pauses_s
        self._deliver = deliver or _by_apprise
        self._threads = ThreadPoolExecutor(MOST_THREADS, "notify")
        self._queues = {name: asyncio.Queue[_Sending](MOST_WAITING) for name in settings.channels}
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(name)) for name in settings.channels]
        self._under_way: set[object] = set()
        self._done: OrderedDict[object, Told] = OrderedDict()
        self._told: list[Told] = []

    def tell(self, about: About, notice: Notice) -> None:
        """Have people told, once however often this is called; returns at once."""
        key = _key(about, notice)
        if (done := self._done.get(key)) is not None:
            if done not in self._told:
                self._told.append(done)
        elif key not in self._under_way:
            self._under_way.add(key)
            self._send(about, notice)

    def told(self) -> tuple[Told, ...]:
        """Who has been told what since this was called last."""
        found, self._told = tuple(self._told), []
        return found

    async def close(self) -> None:
        """Give up what is under way; who goes on will tell it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _send(self, about: About, notice: Notice) -> None:
        worded = message(self._settings, about, notice)
        _log.info("alert", service_key=about.service_key, title=worded.title, key=notice.alert.key)
        names = self._channels(notice)
        sending = _Sending(about=about, notice=notice, message=worded, left=len(names))
        for name in names:
            try:
                self._queues[name].put_nowait(sending)
            except asyncio.QueueFull:
                self._give_up(name, sending)
        if not names:
            self._finish(sending, "")

    def _channels(self, notice: Notice) -> tuple[str, ...]:
        """Those that the notice names and that exist, else the usual ones."""
        known = tuple(name for name in notice.channels if name in self._queues)
        if len(known) < len(notice.channels):
            unknown = sorted(set(notice.channels) - set(known))
            _log.warning("the plan names channels that do not exist", channels=unknown)
        return known or self._settings.usual

    async def _run(self, name: str) -> None:
        """One message of a channel after the other, in order."""
        while True:
            sending = await self._queues[name].get()
            if await self._is_delivered(name, sending):
                self._counts.delivered(name)
                self._finish(sending, name)
            else:
                self._give_up(name, sending)

    async def _is_delivered(self, name: str, sending: _Sending) -> bool:
        for pause_s in (*self._pauses_s, None):
            if await self._try(name, sending):
                return True
            self._counts.failed(name)
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        return False

    async def _try(self, name: str, sending: _Sending) -> bool:
        is_good = sending.notice.is_over
        kind = "success" if is_good else _KINDS[sending.notice.alert.severity]
        channel, loop = self._settings.channels[name], asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._threads, self._deliver, channel, sending.message, kind
            )
        except Exception as error:  # a channel's library may raise anything; its words are secret
            _log.warning("a channel failed", channel=name, error=type(error).__name__)
            return False

    def _give_up(self, name: str, sending: _Sending) -> None:
        self._counts.lost(name)
        _log.error("a channel did not deliver", channel=name, title=sending.message.title)
        sending.left -= 1
        if not sending.left:
            self._finish(sending, "")

    def _finish(self, sending: _Sending, by: str) -> None:
        if sending.is_told:
            return
        sending.is_told = True
        done = Told(about=sending.about, notice=sending.notice, by=by)
        key = _key(sending.about, sending.notice)
        self._under_way.discard(key)
        self._done[key] = done
        if len(self._done) > MOST_REMEMBERED:
            self._done.popitem(last=False)
        self._told.append(done)


def _key(about: About, notice: Notice) -> object:
    alert = notice.alert
    return about, alert.key, alert.since, alert.severity, notice.is_over


def _by_apprise(channel: Apprise, message: Message, kind: str) -> bool:
    return bool(channel.notify(title=message.title, body=message.body, notify_type=kind))
