"""``plan-lint``: what a plan may do and had better not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click
from canary.policy.v1 import policy_pb2
from canary_documents import to_document
from canary_engine import parse
from canary_engine.errors import InvalidPolicy
from canary_engine.model import Policy
from canary_engine.plan import Plan
from canary_engine.plan_lint import Warning as Advice
from canary_engine.plan_lint import lint
from canary_engine.plan_reading import plan as parsed_plan

from canaryctl import render
from canaryctl.errors import Misuse
from canaryctl.files import as_message, expanded, parsed_all, text_of
from canaryctl.options import Verb
from canaryctl.session import Session
from canaryctl.values import MOMENT


@click.command("plan-lint", cls=Verb)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Exit with 1 if there is any warning.")
@click.option("--at", type=MOMENT, help="When the plan begins. [now]")
@click.pass_obj
def plan_lint(session: Session, files: tuple[str, ...], strict: bool, at: Any) -> None:
    """Check plans, alone or in policies, and say what had better be otherwise, and why.

    Needs no service. What cannot be a plan exits with 2; advice is a warning.
    """
    now = at.ToDatetime(UTC) if at is not None else datetime.now(UTC)
    found = {where: lint(plan, policy, now) for where, plan, policy in _plans(files)}
    told = [
        {"file": where, "warnings": [warning._asdict() for warning in warnings]}
        for where, warnings in found.items()
    ]
    session.show({"plans": told}, lambda: [_page(*item) for item in found.items()])
    if strict and any(found.values()):
        raise click.exceptions.Exit(1)


def _page(where: str, warnings: list[Advice]) -> str:
    if not warnings:
        return f"{where}: follows all advice"
    lines = [render.cell(f"{w.path}: {w.says}: {w.why}") for w in warnings]
    return "\n".join([f"{where}: {render.counted(len(warnings), 'warning')}", *lines])


def _plans(files: tuple[str, ...]) -> list[tuple[str, Plan, Policy | None]]:
    found: list[tuple[str, Plan, Policy | None]] = []
    complaints: list[str] = []
    for path in expanded(files):
        for number, document in enumerate(parsed_all(text_of(path), path), 1):
            where = path if number == 1 else f"{path} (document {number})"
            try:
                if (judged := _judged(document)) is not None:
                    found.append((where, *judged))
            except Misuse as misuse:
                complaints += [f"{where}: {line}" for line in misuse.message.splitlines()]
            except InvalidPolicy as error:
                complaints += [f"{where}: {line}" for line in error.complaints]
    if not found and not complaints:
        complaints.append(f"{', '.join(files)}: there is no plan in it")
    if complaints:
        raise Misuse(*complaints)
    return found


def _judged(document: Any) -> tuple[Plan, Policy | None] | None:
    """A plan alone, or that of a policy and what the policy says about people; None: no plan."""
    if isinstance(document, Mapping) and "service_key" not in document:
        alone = document["plan"] if set(document) == {"plan"} else document
        return parsed_plan(to_document(as_message(alone, policy_pb2.Plan))), None
    message = as_message(document, policy_pb2.Policy)
    release = message.release
    policy = to_document(message)
    # A file says no more of a release than its version and share.
    policy["release"] = {
        "id": "-", "salt": "-", "version": "-", "status": "in-progress",
        **policy.get("release", {}),
    }  # fmt: skip
    if not release.ListFields():
        del policy["release"]
    read = parse.fields_of(policy)
    return None if read.plan is None else (read.plan, read)
