"""Every failure has a code, a message, a next step and the documented exit code."""

from __future__ import annotations

import json

import grpc
import pytest
from canary.admin.v1 import admin_pb2
from canaryctl import errors
from canaryctl.app import cli
from click.testing import CliRunner, Result
from google.protobuf.message import Message

EXIT_CODES = {
    grpc.StatusCode.FAILED_PRECONDITION: 1,
    grpc.StatusCode.NOT_FOUND: 1,
    grpc.StatusCode.ALREADY_EXISTS: 1,
    grpc.StatusCode.INVALID_ARGUMENT: 2,
    grpc.StatusCode.ABORTED: 3,
    grpc.StatusCode.UNAVAILABLE: 4,
    grpc.StatusCode.DEADLINE_EXCEEDED: 4,
}


class Failed(grpc.RpcError):
    def __init__(self, status: grpc.StatusCode, said: str | None = None) -> None:
        self.status, self.said = status, said

    def code(self) -> grpc.StatusCode:
        return self.status

    def details(self) -> str | None:
        return self.said


@pytest.mark.parametrize("status", [s for s in grpc.StatusCode if s is not grpc.StatusCode.OK])
def test_every_status_has_an_exit_code_and_a_next_step(status: grpc.StatusCode) -> None:
    request = admin_pb2.SetPercentageRequest(change=admin_pb2.Change(service_key="shop"))
    refusal = errors.refusal(Failed(status), request, "127.0.0.1:9091")
    assert refusal.exit_code == EXIT_CODES.get(status, 5)
    assert refusal.next_step
    assert "{" not in refusal.next_step
    assert refusal.message == f"the call ended as {refusal.code}"


def test_a_lost_race_says_what_to_read_and_repeat() -> None:
    request = admin_pb2.SetPercentageRequest(change=admin_pb2.Change(service_key="shop"))
    refusal = errors.refusal(Failed(grpc.StatusCode.ABORTED), request, "127.0.0.1:9091")
    assert refusal.next_step == (
        "read the policy again (canaryctl policy show shop) and repeat with --expected-revision N"
    )


@pytest.mark.parametrize(
    ("request_", "said", "told"),
    [
        (
            admin_pb2.StartReleaseRequest(),
            "version 'v2' was rolled back: say why it may be released again (despite_rollback)",
            "version 'v2' was rolled back: say why it may be released again (--despite-rollback)",
        ),
        (
            admin_pb2.ApproveRequest(),
            "2 problems: reason: say why; valid_s: give at most 9",
            "2 problems: --reason: say why; --valid: give at most 9",
        ),
        (admin_pb2.SetShadowRequest(), "valid_s: give 1 to 9", "--for: give 1 to 9"),
        (
            admin_pb2.ApplyRequest(),
            "policy.limit: 9 is wrong; rules[0].position: 1",
            "policy.limit: 9 is wrong; rules[0].position: 1",
        ),
    ],
)
def test_a_refusal_names_the_options_of_the_command_line(
    request_: Message, said: str, told: str
) -> None:
    failed = Failed(grpc.StatusCode.INVALID_ARGUMENT, said)
    assert errors.refusal(failed, request_, "127.0.0.1:9091").message == told


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["percentage", "shop", "5"], '--reason "..."'),
        (["percentage", "shop", "5", "--reason", " "], '--reason "..."'),
        (["percentage", "shop", "500", "--reason", "x"], "not from 0 to 100"),
        (["percentage", "shop", "5", "--reason", "x", "--expected-revision", "-1"], "-1"),
        (["percentage", "shop", "-5", "--reason", "x"], "below 0 is no value here: give 0 or more"),
        (["percentage", "shop", "-0.5", "--reason", "x"], "below 0 is no value here"),
        (["stat"], "No such command"),
        (["status", "--colour"], "No such option"),
        (["status", "--output", "xml"], "xml"),
        (["status", "--timeout", "0"], "above 0"),
        (["status", "--address", ""], "no address"),
        (["explain", "shop", "--header", "x"], "name:value"),
        (["explain", "shop", "--at", "noon"], "2026-01-31T12:00:00Z"),
        (["rule", "set", "shop", "--reason", "x"], "--file"),
        (["rule", "add", "shop", "a", "-f", "b", "--reason", "x"], "not both"),
        (["whitelist", "add", "shop", "--reason", "x"], "--ip"),
        (["segment", "put", "shop", "a", "--reason", "x"], "--eligible or --protected"),
        (["segment", "put", "shop", "a", "-f", "b", "--reason", "x"], "not both"),
        (["segment", "add-members", "shop", "a", "--reason", "x"], "no users"),
        (["flag", "put", "shop", "a", "--reason", "x"], "--on or --off"),
        (["flag", "put", "shop", "a", "-f", "b", "--reason", "x"], "not both"),
        (["bucketing", "set", "shop", "--reason", "x"], "one of the two"),
        (["bucketing", "set", "shop", "--hash-on", "moon", "--reason", "x"], "none of header"),
        (["identity", "set", "shop", "--reason", "x"], "one of the two"),
        (["profile", "put", "u", "--tier", "a", "-f", "b", "--reason", "x"], "not both"),
        (["history", "\udcff"], "not UTF-8"),
        (["completion", "tcsh"], "tcsh"),
    ],
)
def test_misuse_is_told_before_anything_is_sent(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert "\nnext: " in result.stderr


@pytest.mark.parametrize("place", [0, 3])
def test_scripts_get_errors_as_json_wherever_they_ask_for_it(place: int) -> None:
    arguments = ["percentage", "shop", "5"]
    arguments[place:place] = ["--output", "json"]
    result = run(*arguments)
    error = json.loads(result.stderr)["error"]
    assert (result.exit_code, result.stdout) == (2, "")
    assert sorted(error) == ["code", "message", "next"]
    assert error["code"] == "usage"
    assert error["next"] == "see canaryctl percentage --help"


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(cli.commands))])
def test_every_command_explains_itself(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: canaryctl" in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_CANARYCTL_COMPLETE" in result.stdout


def test_the_default_segments_are_those_of_the_product() -> None:
    document = json.loads(run("segment", "defaults", "--output", "json").stdout)
    assert document == {
        "segments": [
            {
                "name": "alpha-testers",
                "canary_eligible": True,
                "criteria": {"tags": ["alpha-tester"]},
            },
            {
                "name": "beta-testers",
                "canary_eligible": True,
                "criteria": {"tags": ["beta-tester"]},
            },
            {
                "name": "premium-users",
                "canary_eligible": False,
                "criteria": {"tiers": ["premium"]},
            },
            {
                "name": "new-users",
                "canary_eligible": True,
                "criteria": {"registered": {"last_days": 7}},
            },
        ]
    }
