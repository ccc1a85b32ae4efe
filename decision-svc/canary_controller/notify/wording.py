"""Words a notice by its template; pure."""

from __future__ import annotations

from dataclasses import dataclass
from string import Template
from typing import NamedTuple

from canary_engine.alerts import Notice
from canary_engine.plan import length
from canary_engine.record import Alert

from canary_controller.notify.settings import NotifySettings

MAX_TITLE = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Which release a notice is about; all empty: none, but the controller itself."""

    service_key: str = ""
    release_id: str = ""
    version: str = ""


class Message(NamedTuple):
    """What is sent."""

    title: str
    body: str


def message(settings: NotifySettings, about: About, notice: Notice) -> Message:
    """The notice in words."""
    alert = notice.alert
    values = {
        "service_key": about.service_key or "controller",
        "version": about.version or "-",
        "release_id": about.release_id or "-",
        "severity": str(alert.severity),
        "key": alert.key,
        "title": alert.title,
        "text": alert.text,
        "since": f"{alert.since:%Y-%m-%d %H:%M:%S} UTC",
        "lasted": _lasted(alert),
    }
    wording = settings.over if notice.is_over else settings.alert
    title = Template(wording.title).substitute(values)
    return Message(" ".join(title.split())[:MAX_TITLE], Template(wording.body).substitute(values))


def _lasted(alert: Alert) -> str:
    """How long it lasted, as people say it."""
    if alert.resolved_at is None:
        return "-"
    lasted_s = max(int((alert.resolved_at - alert.since).total_seconds()), 0)
    return length(lasted_s if lasted_s < 120 else lasted_s // 60 * 60)
