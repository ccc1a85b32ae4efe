"""``--idempotency-key`` on the command line: repeating a command changes nothing more."""

from __future__ import annotations

from pathlib import Path

from canaryctl.app import cli
from click.testing import CliRunner, Result
from support.admin import admin_of
from support.service import serve_in_thread


def test_a_command_that_is_repeated_changes_nothing_more(tmp_path: Path) -> None:
    with serve_in_thread() as service, admin_of(service.admin_address, "shop") as admin:

        def ctl(*words: str, key: str = "deploy-7") -> Result:
            start = ["--address", service.admin_address, "--actor", "kim"]
            return CliRunner().invoke(cli, [*start, *words, "--idempotency-key", key])

        register = ("version", "register", "shop", "v1", "--status", "stable", "--reason", "first")
        assert "revision 1" in ctl(*register).stdout
        assert "revision 2" in ctl(*register[:3], "v2", "--reason", "next", key="deploy-8").stdout
        assert "revision 1" in ctl(*register).stdout
        other = ctl(*register[:3], "v3", "--reason", "another")
        assert (other.exit_code, "was given to another change" in other.stderr) == (1, True)

        segments = tmp_path / "segments.yaml"
        segments.write_text(
            "segments:\n"
            "- {name: a, listed: true, canary_eligible: true}\n"
            "- {name: b, listed: true, canary_eligible: true}\n"
        )
        put = ("segment", "put", "shop", "-f", str(segments), "--reason", "from git")
        for _ in range(2):
            assert "revision 4" in ctl(*put, key="segments-1").stdout
        approve = {"service_key": "shop", "actor": "ann", "reason": "ok", "idempotency_key": "a"}
        first, again = (
            admin("Approve", change=approve, move="start", version="v2", percentage=5)
            for _ in range(2)
        )
        assert (first.id, first.revision) == (again.id, again.revision)
        assert admin("GetPolicy", service_key="shop").policy.revision == 5
