"""canary-dev-stack: the whole product on this machine, to try it and to develop against it."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from threading import Event
from typing import Any

import click
import grpc
from canaryctl.session import DEFAULT_ADDRESS

from dev_stack import demo, steer, stories
from dev_stack.gateways import NoKong
from dev_stack.processes import NotReady
from dev_stack.stack import SERVICE_KEY, Plan, Stack

RUNNING = """
  gateway     http://{proxy}/api/v1/hello        ({gateway} gateway, one user in twenty gets v1.3.0)
  admin gRPC  {admin}        (--insecure: whoever reaches it may do everything)
  metrics     http://{metrics}/metrics
  logs        {logs}
  reports     {logs}/reports        (the controller's, of releases with a plan that have ended)

Try, in another terminal:
  curl -s http://{proxy}/api/v1/hello -H 'x-user-id: alice'
  curl -s http://{proxy}/api/v1/hello -H 'x-canary-test: true'
  {canaryctl} status
  {canaryctl} percentage {service} 50 --reason 'looks good'
  {canaryctl} explain {service} --header x-user-id:alice

Ctrl-C stops everything."""


@click.group()
def main() -> None:
    """Run the whole product as processes on this machine. For development only."""


@main.command()
@click.option("--run-dir", default=".run", type=click.Path(path_type=Path), show_default=True)
@click.option("--gateway", default="dev", type=click.Choice(["dev", "kong"]), show_default=True)
@click.option("--proxy-listen", default="127.0.0.1:8000", show_default=True)
@click.option("--admin-listen", default="127.0.0.1:9091", show_default=True)
@click.option("--decision-listen", default="127.0.0.1:50051", show_default=True)
@click.option("--metrics-listen", default="127.0.0.1:9464", show_default=True)
def run(run_dir: Path, gateway: str, **listen: Any) -> None:
    """Run until Ctrl-C; what was changed is kept in RUN_DIR."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    run_dir = run_dir.resolve()
    controller = ("--reports-dir", str(run_dir / "reports"))
    plan = Plan(run_dir=run_dir, gateway=gateway, persistent=True, controller=controller, **listen)
    click.echo(f"starting redis, decision service, plugin server, two versions, {gateway} gateway,")
    click.echo("controller ...")
    with _explained(), Stack(plan) as stack:
        client = steer.admin(stack.admin_address)
        if steer.is_empty(client):
            steer.register_versions(client)
            steer.set_rules(client)
            steer.start_release(client, 5)
        click.echo(
            RUNNING.format(
                proxy=stack.gateway.address,
                gateway=gateway,
                admin=stack.admin_address,
                metrics=stack.metrics_address,
                logs=plan.run_dir,
                service=SERVICE_KEY,
                canaryctl=_canaryctl(stack.admin_address),
            )
        )
        stop.wait()
        click.echo("\nstopping ...")
    click.echo("stopped")


def _canaryctl(admin: str) -> str:
    """The command that reaches this admin API, as people type it."""
    elsewhere = "" if admin == DEFAULT_ADDRESS else f" --address {admin}"
    return f".venv/bin/canaryctl{elsewhere}"


@main.command(name="demo")
@click.option("--run-dir", default=".run", type=click.Path(path_type=Path), show_default=True)
@click.option("--gateway", default="dev", type=click.Choice(["dev", "kong"]), show_default=True)
def demo_command(run_dir: Path, gateway: str) -> None:
    """A tour by hand, then two releases that move by themselves, on ports and data of their own.

    Their reports are left in RUN_DIR.
    """
    click.echo(f"First a release by hand, then two that move by themselves ({gateway} gateway);")
    click.echo("two minutes, or three on a slow machine.")
    reports = run_dir.resolve() / "demo"
    reports.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="canary-demo-") as folder, _explained():
        with Stack(Plan(run_dir=Path(folder) / "tour", gateway=gateway, persistent=True)) as stack:
            demo.tour(stack)
        plan = Plan(
            run_dir=Path(folder) / "stories",
            gateway=gateway,
            declare=stories.without_canary,
            controller=(),
        )
        with Stack(plan) as stack:
            stories.tell(stack, reports)
    click.echo("\nThat was all, and it was stopped. To try it yourself: make run")


class _explained:  # noqa: N801 - reads as a word in a with statement
    """Turns what people can mend into a message instead of a traceback."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NotReady | NoKong | demo.Unexpected | stories.Unexpected):
            click.echo(str(error), err=True)
            sys.exit(1)
        if isinstance(error, grpc.RpcError):
            click.echo(f"the admin API refused: {error}", err=True)
            sys.exit(1)


if __name__ == "__main__":
    main()
