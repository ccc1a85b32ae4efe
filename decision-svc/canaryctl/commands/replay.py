"""``replay``: who would move if a policy were applied, told from an access log."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import click
from canary_engine import reads
from canary_engine.model import Policy
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from canaryctl.errors import Misuse
from canaryctl.options import Verb
from canaryctl.replay import page, policies
from canaryctl.replay.lines import Format, Found, Wanted
from canaryctl.replay.run import Job, size_of
from canaryctl.replay.run import replay as replay_logs
from canaryctl.replay.tally import Tally, reads_time
from canaryctl.session import Session
from canaryctl.values import MOMENT

_EXPECTED = (
    "give a log in nginx's combined format, Kong's JSON log, or JSON lines with the fields of a "
    "DecideRequest; --format says which, where the first line does not show it"
)


@click.command("replay", cls=Verb)
@click.argument("logs", metavar="LOGFILE...", nargs=-1, required=True)
@click.option(
    "--policy", "path", metavar="FILE", required=True, help="The policy proposed, as for apply."
)
@click.option(
    "--against",
    default="",
    metavar="SERVICE|FILE",
    help="The policy that is there now: a service's, or one in a file. [none: all get stable]",
)
@click.option(
    "--format",
    "written",
    type=click.Choice([str(word) for word in Format]),
    help="How the logs are written. [as the first line looks]",
)
@click.option("--jobs", type=click.IntRange(1, 256), help="Worker processes. [one for each core]")
@click.option("--at", type=MOMENT, help="When requests without a time were made. [now]")
@click.option("--show-users", is_flag=True, help="Name some users who move, rather than hash them.")
@click.pass_obj
def replay(
    session: Session,
    logs: tuple[str, ...],
    path: str,
    against: str,
    written: str | None,
    jobs: int | None,
    at: Any,
    show_users: bool,
) -> None:
    """Tell from access logs who would move if a policy were applied.

    A LOGFILE is in nginx's combined format, Kong's JSON log or described requests as JSON lines,
    possibly compressed with gzip; - is stdin. Parts that FILE does not have are as in --against.
    """
    missing = [log for log in logs if log != "-" and not Path(log).is_file()]
    if missing:
        raise Misuse(*(f"{log}: there is no such file" for log in missing))
    file = policies.file_at(path)
    now = _now(session, against, file.policy.service_key)
    proposed = policies.proposed(file, now)
    moment = at.ToDatetime(UTC) if at is not None else datetime.now(UTC)
    job = Job(
        now=now,
        proposed=proposed,
        wanted=_wanted(now, proposed, moment),
        format=Format(written) if written else None,
    )
    session.close()
    started = monotonic()
    tally = _replayed(job, logs, jobs or os.cpu_count() or 1)
    _check_readable(tally.found, logs)
    result = page.document(tally, monotonic() - started, show_users=show_users)
    session.show(
        {"service_key": proposed.service_key, **result},
        lambda: page.page(result, show_users=show_users),
    )


def _check_readable(found: Found, logs: tuple[str, ...]) -> None:
    """Raise Misuse if there is nothing in the logs that a replay could go by."""
    if not found.lines:
        raise Misuse(f"{', '.join(logs)}: holds no line", next_step=_EXPECTED)
    if found.bad == found.lines and found.first_bad is not None:
        file, line = found.first_bad
        formats = " or ".join(sorted(found.formats))
        raise Misuse(
            f"{file}: none of {found.lines:,} lines can be read as {formats}; the first is "
            f"line {line:,}",
            next_step=_EXPECTED,
        )


def _now(session: Session, against: str, service_key: str) -> Policy:
    if not against:
        return policies.nothing(service_key)
    if Path(against).is_file():
        return policies.proposed(policies.file_at(against), policies.nothing(service_key))
    return policies.stored(session.policy(against))


def _wanted(now: Policy, proposed: Policy, moment: datetime) -> Wanted:
    both = (now, proposed)
    return Wanted(
        service_key=proposed.service_key,
        user_headers=tuple({policy.identity.user_id_header for policy in both}),
        cookies=frozenset().union(*(reads.of(policy).cookies for policy in both)),
        reads_time=any(map(reads_time, both)),
        now=moment,
    )


def _replayed(job: Job, logs: tuple[str, ...], workers: int) -> Tally:
    # What rich takes for a terminal because of FORCE_COLOR may be a file.
    is_seen = sys.stderr.isatty()
    size = size_of(logs)
    shown = _bar(is_endless=size is None)
    with shown if is_seen else nullcontext():
        task = shown.add_task("replay", total=size, lines=0)

        def tell(lines: int, done: int) -> None:
            shown.update(task, advance=done, lines=lines)

        return replay_logs(job, logs, workers, tell)


def _bar(*, is_endless: bool) -> Progress:
    """How far the replay is: of stdin nobody knows how much there is."""
    lines = "{task.fields[lines]:,} lines"
    share = () if is_endless else (TextColumn("{task.percentage:>3.0f} %"),)
    rest = () if is_endless else (TimeRemainingColumn(),)
    columns = (TextColumn("replaying"), BarColumn(), *share, TextColumn(lines), *rest)
    return Progress(*columns, console=Console(stderr=True), transient=True)
