"""``whoami``: who the service takes us for, and what we may do."""

from __future__ import annotations

import click
from canary.admin.v1 import admin_pb2

from canaryctl import render
from canaryctl.options import Verb
from canaryctl.session import Session


@click.command(cls=Verb)
@click.pass_obj
def whoami(session: Session) -> None:
    """Show who you are to the service, and your roles."""
    answer = session.call(session.admin.WhoAmI, admin_pb2.WhoAmIRequest())
    roles = dict(sorted(answer.roles.items()))
    document = {"name": answer.name, "roles": roles, "insecure": answer.insecure}
    session.show(document, lambda: [_said(answer.name, roles, answer.insecure)])


def _said(name: str, roles: dict[str, str], is_insecure: bool) -> str:
    if is_insecure:
        return "anybody: the service asks nobody for credentials (--insecure)"
    lines = [f"{render.cell(key)}: {role}" for key, role in roles.items()]
    return "\n".join([render.cell(name), *(f"  {line}" for line in lines)])
