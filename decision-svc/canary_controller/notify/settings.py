"""Reads the notify file: channels, which of them are usual, and how messages are worded.

The addresses in it are secrets: no complaint and no log line ever repeats one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from string import Template
from typing import TYPE_CHECKING, Any

import yaml
from canary_engine.errors import CanaryError

if TYPE_CHECKING:
    from apprise import Apprise

PLACEHOLDERS = frozenset(
    {"service_key", "version", "release_id", "severity", "key", "title", "text", "since", "lasted"}
)
"""What a template may name."""

for _chatty in ("apprise", "urllib3"):
    # Both tell addresses, and what is in those is secret: the notifier tells what matters.
    logging.getLogger(_chatty).setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How a message is worded: Python's string templates, with the names of PLACEHOLDERS."""

    title: str
    body: str


ALERT = Wording(
    title="[$severity] $service_key: $title",
    body="$text\n\nservice: $service_key\nversion: $version\nrelease: $release_id\nsince: $since",
)
OVER = Wording(
    title="[over] $service_key: $title",
    body="This is over after $lasted.\n\nservice: $service_key\nversion: $version\n"
    "release: $release_id\nsince: $since",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySettings:
    """Channels by name, those that are usual, and the wording of an alert and of its end."""

    channels: Mapping[str, Apprise] = field(default_factory=dict, repr=False)
    usual: tuple[str, ...] = ()
    alert: Wording = ALERT
    over: Wording = OVER


class BadNotifyFile(CanaryError):  # noqa: N818 - it says what is bad
    """The notify file is wrong; ``complaints`` holds "path: what to do" lines, and no address."""

    def __init__(self, *complaints: str) -> None:
        self.complaints = complaints
        super().__init__("; ".join(complaints))


def settings_in(text: str) -> NotifySettings:
    """The settings in a notify file's text. Raises BadNotifyFile with every complaint."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadNotifyFile(f"it is not YAML{_place(error)}") from None
    if not isinstance(document, Mapping):
        raise BadNotifyFile("give a mapping with channels in it")
    complaints: list[str] = []
    _check_names(document, {"channels", "default", "templates"}, "", complaints.append)
    channels = _channels(document.get("channels"), complaints.append)
    worded = _templates(document.get("templates"), complaints.append)
    usual = _usual(document.get("default"), channels, complaints.append)
    if complaints:
        raise BadNotifyFile(*complaints)
    return NotifySettings(
        channels=channels, usual=usual, alert=worded.get("alert", ALERT),
        over=worded.get("over", OVER),
    )  # fmt: skip


Complain = Callable[[str], None]


def _channels(found: Any, complain: Complain) -> dict[str, Apprise]:
    if not isinstance(found, Mapping):
        complain("channels: give each its name and url; {} tells nobody")
        return {}
    return {str(name): _channel(str(name), part, complain) for name, part in found.items()}


def _channel(name: str, part: Any, complain: Complain) -> Apprise:
    """One channel; {url: ...}, {urls: [...]}, or the address or a list of them alone."""
    from apprise import Apprise  # it takes a quarter of a second, and many have no channels

    where = f"channels.{name}"
    if isinstance(part, Mapping):
        _check_names(part, {"url", "urls"}, f"{where}.", complain)
        part = part.get("urls", part.get("url"))
    urls = part if isinstance(part, list) else [part]
    channel = Apprise()
    for number, url in enumerate(urls, 1):
        if not isinstance(url, str) or not url or not channel.add(url):
            complain(f"{where}: address {number} is none that apprise knows")
    return channel


def _usual(found: Any, channels: Mapping[str, Apprise], complain: Complain) -> tuple[str, ...]:
    """The channels for what names none; all if it is not said."""
    if found is None:
        return tuple(channels)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        complain("default: give a list of names of channels")
        return ()
    for name in found:
        if name not in channels:
            complain(f"default: there is no channel {name!r}")
    return tuple(found)


def _templates(found: Any, complain: Complain) -> dict[str, Wording]:
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        complain("templates: give a mapping")
        return {}
    usual = {"alert": ALERT, "over": OVER}
    _check_names(found, set(usual), "templates.", complain)
    return {
        name: _wording(f"templates.{name}", found[name], usual[name], complain)
        for name in usual
        if name in found
    }


def _wording(where: str, found: Any, usual: Wording, complain: Complain) -> Wording:
    if not isinstance(found, Mapping):
        complain(f"{where}: give title, body or both")
        return usual
    _check_names(found, {"title", "body"}, f"{where}.", complain)
    title, body = found.get("title", usual.title), found.get("body", usual.body)
    for name, text in (("title", title), ("body", body)):
        if not isinstance(text, str) or not Template(text).is_valid():
            complain(f"{where}.{name}: it is no template; write $$ for a $")
        elif unknown := set(Template(text).get_identifiers()) - PLACEHOLDERS:
            known = ", ".join(f"${name}" for name in sorted(PLACEHOLDERS))
            complain(f"{where}.{name}: ${min(unknown)} is unknown; there is {known}")
    return Wording(title=str(title), body=str(body))


def _check_names(found: Mapping[Any, Any], known: set[str], where: str, complain: Complain) -> None:
    for name in found:
        if name not in known:
            complain(f"{where}{name}: unknown; there is {', '.join(sorted(known))}")


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f" (line {mark.line + 1})" if mark is not None else ""
