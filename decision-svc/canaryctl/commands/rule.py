"""``rule``: the ordered rules on header, cookie, IP, path and consumer."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2
from canary.policy.v1 import policy_pb2

from canaryctl import policy_tables, render
from canaryctl.files import read_many
from canaryctl.options import Noun, file_option, reads, writes
from canaryctl.session import Session
from canaryctl.values import POSITION, choice, value_of


@click.group(cls=Noun)
def rule() -> None:
    """Rules: what a request looks like decides, in order, the first match wins."""


@rule.command("list")
@reads
def show(session: Session, service: str) -> None:
    """List the rules in order."""
    policy = session.policy(service)
    document = {
        "service_key": service,
        "revision": policy.revision,
        "rules": render.documents(policy.rules),
    }
    session.show(document, lambda: [policy_tables.rules(policy)])


@rule.command("set")
@writes
@click.option("-f", "--file", "path", metavar="FILE", required=True, help="All rules (- is stdin).")
def replace(session: Session, change: admin_pb2.Change, path: str) -> None:
    """Replace all rules by those in FILE."""
    rules = read_many(path, "rules", policy_pb2.Rule)
    request = admin_pb2.SetRulesRequest(change=change, rules=rules)
    answer = session.call(session.admin.SetRules, request)
    session.tell_written(answer, change, f"set {render.counted(len(rules), 'rule')}")


@rule.command("add")
@writes
@click.argument("name", required=False)
@click.option("--source", type=choice(policy_pb2.Source.DESCRIPTOR), help="What is looked at.")
@click.option("--key", default="", help="Name of the header or cookie.")
@click.option("--exact", default="", help="The one value that matches.")
@click.option("--one-of", multiple=True, help="A value that matches; repeat for more.")
@click.option("--pattern", default="", help="RE2 pattern; anchor it with ^ and $.")
@click.option("--cidr", "cidrs", multiple=True, help="A network that matches; repeat for more.")
@click.option("--variant", type=choice(policy_pb2.Variant.DESCRIPTOR), help="Where a match goes.")
@click.option("--position", type=POSITION, help="Place, from 0. [last]")
@file_option("The rule, instead of the options")
def add(
    session: Session,
    change: admin_pb2.Change,
    name: str | None,
    source: str | None,
    key: str,
    exact: str,
    one_of: tuple[str, ...],
    pattern: str,
    cidrs: tuple[str, ...],
    variant: str | None,
    position: int | None,
    path: str | None,
) -> None:
    """Add a rule, described by options or in a file."""
    given = policy_pb2.Rule(
        name=name or "",
        source=value_of(policy_pb2.Source.DESCRIPTOR, source),
        key=key,
        exact=exact,
        one_of=one_of,
        pattern=pattern,
        cidrs=cidrs,
        variant=value_of(policy_pb2.Variant.DESCRIPTOR, variant),
    )
    chosen = _from_file(path, given) if path is not None else given
    request = admin_pb2.AddRuleRequest(change=change, rule=chosen, position=position)
    answer = session.call(session.admin.AddRule, request)
    session.tell_written(answer, change, f"added rule {chosen.name}")


def _from_file(path: str, given: policy_pb2.Rule) -> policy_pb2.Rule:
    if given.ListFields():
        raise click.UsageError("describe the rule by options or with --file, not both")
    rules = read_many(path, "rules", policy_pb2.Rule)
    if len(rules) != 1:
        raise click.UsageError(
            f"{path} holds {render.counted(len(rules), 'rule')}: add takes one, set takes all"
        )
    return rules[0]


@rule.command("remove")
@writes
@click.argument("name")
def remove(session: Session, change: admin_pb2.Change, name: str) -> None:
    """Remove a rule."""
    request = admin_pb2.RemoveRuleRequest(change=change, name=name)
    answer = session.call(session.admin.RemoveRule, request)
    session.tell_written(answer, change, f"removed rule {name}")
