"""Alerts reach a real receiver over apprise; a dead channel is retried, bounded and counted."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from canary_controller.notify.notifier import MOST_WAITING, Notifier, Told
from canary_controller.notify.settings import BadNotifyFile, NotifySettings, settings_in
from canary_controller.notify.wording import About, message
from canary_engine.alerts import Notice
from canary_engine.record import Alert, Severity
from support.calls import until_so
from support.web import Site, serving
from yaml import safe_dump

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
SHOP = About(service_key="shop", release_id="r1", version="2.0")
ALERT = Alert(
    key="limit:cpu", severity=Severity.WARNING, title="CPU is 90, above 80", text="Stable: 40.",
    since=NOW,
)  # fmt: skip
NOTICE = Notice(alert=ALERT)


class Counts:
    """What was counted."""

    def __init__(self) -> None:
        self.all: Counter[tuple[str, str]] = Counter()

    def delivered(self, channel: str) -> None:
        """See Counts."""
        self.all["delivered", channel] += 1

    def failed(self, channel: str) -> None:
        """See Counts."""
        self.all["failed", channel] += 1

    def lost(self, channel: str) -> None:
        """See Counts."""
        self.all["lost", channel] += 1


async def fine(_: web.Request) -> web.StreamResponse:
    return web.Response()


def failing(times: int) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    left = [500] * times

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=left.pop() if left else 200)

    return answer


def channel(site: Site, path: str = "hook") -> str:
    return f"json{site.url.removeprefix('http')}/{path}"


def settings(default: list[str] | None = None, **channels: Any) -> NotifySettings:
    usual = {"default": default} if default is not None else {}
    return settings_in(safe_dump({"channels": channels, **usual}))


@asynccontextmanager
async def notifying(of: NotifySettings, **more: Any) -> AsyncIterator[tuple[Notifier, Counts]]:
    counts = Counts()
    notifier = Notifier(of, counts, **{"pauses_s": (0.001, 0.001), **more})
    try:
        yield notifier, counts
    finally:
        await notifier.close()


async def told(notifier: Notifier, count: int = 1) -> list[Told]:
    found: list[Told] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += notifier.told()
            await asyncio.sleep(0)
    return found


async def counted(counts: Counts, what: str, name: str) -> None:
    await until_so(lambda: bool(counts.all[what, name]))


async def test_an_alert_reaches_its_receiver_in_words() -> None:
    async with serving(fine) as site, notifying(settings(ops=channel(site))) as (notifier, counts):
        notifier.tell(SHOP, NOTICE)
        assert await told(notifier) == [Told(about=SHOP, notice=NOTICE, by="ops")]
        await counted(counts, "delivered", "ops")
    ((request, body),) = site.requests
    sent = json.loads(body)
    assert request.path == "/hook"
    assert (sent["title"], sent["type"]) == ("[warning] shop: CPU is 90, above 80", "warning")
    assert sent["message"] == (
        "Stable: 40.\n\nservice: shop\nversion: 2.0\nrelease: r1\nsince: 2026-03-04 12:00:00 UTC"
    )


async def test_an_alert_is_sent_once_however_often_it_is_told() -> None:
    async with serving(fine) as site, notifying(settings(ops=channel(site))) as (notifier, _):
        for _ in range(3):
            notifier.tell(SHOP, NOTICE)
        first = await told(notifier)
        notifier.tell(SHOP, NOTICE)  # the record could not be written: it is heard once more
        assert notifier.told() == tuple(first)
        over = Notice(alert=ALERT, is_over=True)
        notifier.tell(SHOP, over)
        assert (await told(notifier))[0].notice == over
        assert len(site.requests) == 2


async def test_a_channel_is_tried_again_until_it_delivers() -> None:
    async with serving(failing(2)) as site, notifying(settings(ops=channel(site))) as (
        notifier, counts,
    ):  # fmt: skip
        notifier.tell(SHOP, NOTICE)
        (done,) = await told(notifier)
    assert done.by == "ops"
    assert counts.all == {("failed", "ops"): 2, ("delivered", "ops"): 1}


async def test_a_dead_channel_is_given_up_and_counted() -> None:
    async with serving(fine) as site:
        gone = channel(site)
    async with notifying(settings(ops=gone)) as (notifier, counts):
        notifier.tell(SHOP, NOTICE)
        (done,) = await told(notifier)
    assert done.by == ""
    assert counts.all == {("failed", "ops"): 3, ("lost", "ops"): 1}


async def test_a_dead_channel_keeps_no_other_waiting() -> None:
    async with serving(fine) as site, serving(failing(99)) as dead:
        both = settings(dead=channel(dead), alive=channel(site))
        async with notifying(both, pauses_s=(600.0,)) as (notifier, counts):
            notifier.tell(SHOP, NOTICE)
            (done,) = await told(notifier)
            await counted(counts, "failed", "dead")
    assert done.by == "alive"
    assert counts.all == {("failed", "dead"): 1, ("delivered", "alive"): 1}


async def test_a_channel_that_raises_is_one_that_failed() -> None:
    def broken(*_: object) -> bool:
        raise RuntimeError("json://user:password@host")

    async with notifying(settings(ops="json://127.0.0.1:9"), deliver=broken) as (notifier, counts):
        notifier.tell(SHOP, NOTICE)
        assert (await told(notifier))[0].by == ""
    assert counts.all["failed", "ops"] == 3


async def test_what_waits_for_a_dead_channel_is_bounded() -> None:
    async with notifying(
        settings(ops="json://127.0.0.1:9"), deliver=lambda *_: False, pauses_s=(600.0,)
    ) as (notifier, counts):
        for number in range(MOST_WAITING + 10):
            notifier.tell(About(service_key=f"shop-{number}"), NOTICE)
        assert counts.all["lost", "ops"] == 10
        assert len(await told(notifier, 10)) == 10


async def test_the_plans_channels_are_asked_first_and_unknown_ones_fall_back() -> None:
    async with serving(fine) as site:
        of = settings(["ops"], ops=channel(site, "ops"), mail=channel(site, "mail"))
        async with notifying(of) as (notifier, _):
            cases = ((), ("mail",), ("mail", "nobody"), ("nobody",))
            for number, names in enumerate(cases):
                one = About(service_key=f"shop-{number}")
                notifier.tell(one, Notice(alert=ALERT, channels=names))
                await told(notifier)
    assert [request.path for request, _ in site.requests] == ["/ops", "/mail", "/mail", "/ops"]


async def test_without_channels_people_are_told_by_the_log() -> None:
    async with notifying(NotifySettings()) as (notifier, _):
        notifier.tell(SHOP, NOTICE)
        assert [done.by for done in notifier.told()] == [""]


# Words


def test_the_end_of_an_alert_says_how_long_it_lasted() -> None:
    over = Alert(
        key="k", severity=Severity.INFO, title="CPU\nis high", since=NOW,
        resolved_at=NOW + timedelta(minutes=5, seconds=3),
    )  # fmt: skip
    worded = message(NotifySettings(), SHOP, Notice(alert=over, is_over=True))
    assert worded.title == "[over] shop: CPU is high"
    assert worded.body.startswith("This is over after 5m.\n")


def test_templates_are_ones_own() -> None:
    text = """
channels: {ops: {urls: ["json://localhost/a", "json://localhost/b"]}}
templates: {alert: {title: "$service_key $version: $title"}, over: {body: "$$ $lasted"}}
"""
    of = settings_in(text)
    assert of.usual == ("ops",)
    assert len(of.channels["ops"]) == 2
    assert message(of, SHOP, NOTICE).title == "shop 2.0: CPU is 90, above 80"
    assert message(of, SHOP, Notice(alert=ALERT, is_over=True)).body == "$ -"
    controller = message(NotifySettings(), About(), NOTICE)
    assert controller.title == "[warning] controller: CPU is 90, above 80"


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "give a mapping with channels in it"),
        ("{", "it is not YAML (line 1)"),
        ("channels:", "channels: give each its name and url; {} tells nobody"),
        (f"channels: {{ops: 'nonsense://{SECRET}'}}", "channels.ops: address 1 is none that"),
        (f"channels: {{ops: {{uri: {SECRET}}}}}", "channels.ops.uri: unknown; there is url, urls"),
        ("channels: {ops: {urls: [7]}}", "channels.ops: address 1"),
        ("channels: {a: 'json://h'}\ndefault: [b]", "default: there is no channel 'b'"),
        ("channels: {a: 'json://h'}\ndefault: a", "default: give a list"),
        ("channels: {a: 'json://h'}\nchanels: 1", "chanels: unknown; there is channels, default"),
        ("channels: {a: 'json://h'}\ntemplates: 1", "templates: give a mapping"),
        ("channels: {a: 'json://h'}\ntemplates: {alert: 1}", "give title, body or both"),
        (
            "channels: {a: 'json://h'}\ntemplates: {alert: {title: $titel}}",
            "templates.alert.title: $titel is unknown; there is $key",
        ),
        (
            "channels: {a: 'json://h'}\ntemplates: {over: {body: 5 $}}",
            "templates.over.body: it is no template; write $$ for a $",
        ),
    ],
)
def test_a_wrong_file_is_told_with_places_and_without_secrets(
    text: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(BadNotifyFile) as caught:
        settings_in(text)
    assert any(said in line for line in caught.value.complaints)
    assert SECRET not in f"{caught.value}{caplog.text}"


async def test_no_address_is_ever_logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(failing(1)) as site:
        of = settings(ops=channel(site, SECRET))
        with caplog.at_level(logging.DEBUG):
            async with notifying(of) as (notifier, _):
                notifier.tell(SHOP, NOTICE)
                await told(notifier)
    assert site.requests[0][0].path == f"/{SECRET}"
    printed = capsys.readouterr()
    ours = [record for record in caplog.records if record.name != "aiohttp.access"]
    assert SECRET not in f"{printed.out}{printed.err}{[r.getMessage() for r in ours]}{of!r}"
