"""canaryctl where credentials are asked for: tokens, certificates, and whom a change is by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from canaryctl.app import cli
from click.testing import CliRunner, Result
from decision_svc.access import credentials
from decision_svc.app import Running
from support.access import Tokens
from support.authority import Authority
from support.service import serve_in_thread


def run(*words: str, **variables: str) -> Result:
    return CliRunner().invoke(cli, words, env=variables)


@pytest.fixture
def file(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "access.yml")


@pytest.fixture
def token(file: Tokens) -> str:
    return file.new("alice", {"shop": "operator", "*": "viewer"})


@pytest.fixture
def service(file: Tokens, token: str) -> Iterator[Running]:
    with serve_in_thread(access_file=file.write()) as running:
        yield running


def test_the_token_is_an_option_a_file_or_a_variable(
    service: Running, token: str, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(f"{token}\n")
    at = ("--address", service.admin_address)
    for words, variables in (
        (("--token", token), {}),
        (("--token-file", str(path)), {}),
        ((), {"CANARYCTL_TOKEN": token}),
        ((), {"CANARYCTL_TOKEN_FILE": str(path)}),
    ):
        result = run("whoami", *at, *words, "--output", "json", **variables)
        assert json.loads(result.stdout) == {
            "name": "alice",
            "roles": {"*": "viewer", "shop": "operator"},
            "insecure": False,
        }


def test_a_change_is_by_whom_the_token_names(service: Running, token: str) -> None:
    known = {"CANARYCTL_ADDRESS": service.admin_address, "CANARYCTL_TOKEN": token}
    written = run("version", "register", "shop", "v1", "--reason", "x", **known)
    assert (written.exit_code, written.stderr) == (0, "")
    history = json.loads(run("history", "shop", "--output", "json", **known).stdout)
    assert [change["actor"] for change in history["changes"]] == ["alice"]
    refused = run("version", "register", "shop", "v2", "--reason", "x", "--actor", "bob", **known)
    assert refused.exit_code == 2
    assert "you are 'alice'" in refused.stderr


def test_a_refusal_says_what_to_do_and_not_the_token(service: Running, token: str) -> None:
    at = ("--address", service.admin_address)
    nobody = run("status", *at)
    assert nobody.exit_code == 5
    assert "--token-file" in nobody.stderr
    wrong = run("status", *at, "--token", f"{token}x")
    assert "not known here" in wrong.stderr
    assert token not in wrong.stderr
    denied = run("percentage", "other", "5", "--reason", "x", *at, "--token", token)
    assert "the role operator for service key 'other'" in denied.stderr
    assert "canaryctl whoami" in denied.stderr


@pytest.mark.parametrize("bad", ["two words", "a\nb", "\x7f"])
def test_what_is_no_token_is_not_sent_and_not_shown(service: Running, bad: str) -> None:
    result = run("status", "--address", service.admin_address, "--token", bad)
    assert result.exit_code == 2
    assert "is no token" in result.stderr
    assert bad not in result.stderr


def test_a_new_token_comes_with_its_line_for_the_access_file(file: Tokens) -> None:
    made, _, line = run("token", "new", "--name", "ci", "--role", "admin").stdout.partition("\n")
    found = credentials.parse(f"tokens:\n{line.strip()}\n").tokens[0]
    file.path.write_text(f"tokens:\n{line.strip()}\n")
    assert found.name == "ci"
    assert made not in line
    with serve_in_thread(access_file=str(file.path)) as running:
        said = run("whoami", "--address", running.admin_address, "--token", made)
    assert said.stdout == "ci\n  *: admin\n"


def test_a_certificate_says_who_and_over_tls_the_service_is_checked(
    file: Tokens, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca")
    server, client = authority.server(), authority.client("carol")
    file.write(certificates=[{"common_name": "carol", "roles": {"*": "viewer"}}])
    settings = {
        "tls_cert": str(server.certificate),
        "tls_key": str(server.key),
        "tls_client_ca": str(authority.file),
    }
    own = ("--tls-cert", str(client.certificate), "--tls-key", str(client.key))
    with serve_in_thread(access_file=str(file.path), **settings) as running:
        at = ("--address", running.admin_address)
        said = run("whoami", *at, *own, "--tls-ca", str(authority.file))
        assert said.stdout == "carol\n  *: viewer\n"
        assert run("whoami", *at, *own, "--timeout", "2").exit_code == 4
        for wrong in (("--tls-ca", "/nowhere"), ("--tls-ca", __file__), own[:2]):
            assert run("whoami", *at, *wrong).exit_code == 2
