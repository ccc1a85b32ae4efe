"""The demo's Redis is backed up and restored by the commands of docs/kubernetes.md."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from support.manifests import NAMESPACE, ROOT
from support.node import Container, Node

PAGE = (ROOT / "docs/kubernetes.md").read_text()
SCRIPTS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
# What brings a command into the pod: here the pod is this machine. The rest is done by the test.
KUBECTL = f"""
kubectl() {{
    [ "$1 $2" = "-n {NAMESPACE}" ]
    case $3 in
        exec) while [ "$1" != -- ]; do shift; done; shift; "$@" ;;
        scale) echo "$4 $5 $6" ;;
        *) return 1 ;;
    esac
}}
"""


def script(about: str) -> str:
    (found,) = (text for text in SCRIPTS if about in text)
    return str(found)


def typed(text: str, redis: Container, folder: Path) -> str:
    """What a script prints, with the pod's paths and ports as they are here."""
    done = subprocess.run(
        ["sh", "-eu", "-c", KUBECTL + redis.here(text)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(redis: Container, *words: str) -> str:
    command = ["redis-cli", "-p", str(redis.port("redis")), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_what_was_backed_up_is_there_after_a_restore_and_what_came_later_is_not(
    tmp_path: Path,
) -> None:
    restore, _, after = script("--daemonize yes").partition(
        f"kubectl -n {NAMESPACE} delete pod redis-0\n"
    )
    assert after
    with Node("demo") as node:
        redis = node.run("redis", "redis")
        redis.wait_for("readinessProbe")
        asked(redis, "set", "canary:policy", "then")
        typed(script("/data/backup.rdb > backup.rdb"), redis, tmp_path)
        asked(redis, "set", "canary:policy", "now")
        asked(redis, "set", "canary:later", "now")

        assert "deployment/controller --replicas 0" in typed(restore, redis, tmp_path)
        redis.end()
        redis = node.run("redis", "redis")
        redis.wait_for("readinessProbe")
        assert asked(redis, "get", "canary:policy") == "then"
        assert asked(redis, "keys", "*") == "canary:policy"
        assert asked(redis, "config", "get", "appendonly").split() == ["appendonly", "yes"]

        # And it keeps what comes after.
        asked(redis, "set", "canary:policy", "afterwards")
        redis.end()
        redis = node.run("redis", "redis")
        redis.wait_for("readinessProbe")
        assert asked(redis, "get", "canary:policy") == "afterwards"
    assert after.strip().endswith("--replicas 2")
