"""What make promises: a set-up that runs once, clear words when it cannot, honest exit codes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A Python that makes environments out of itself and writes down what pip is asked.
PYTHON = f"""#!/bin/sh
case "$*" in
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip"*) echo "$*" >>pip.log && test ! -e no-network ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A clone on a machine whose python3, apt-get, id and sleep are ours."""

    clone: Path

    def has(self, name: str, script: str) -> None:
        command = self.clone / "bin" / name
        command.write_text(script)
        command.chmod(0o755)

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.clone / ".ci" / script, *arguments],
            env={"PATH": f"{self.clone / 'bin'}:/usr/bin:/bin", "HOME": str(self.clone)},
            capture_output=True,
            text=True,
            check=False,
        )

    def log(self, name: str) -> list[str]:
        file = self.clone / f"{name}.log"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / "bin").mkdir()
    machine = Machine(clone=tmp_path)
    machine.has("python3", PYTHON)
    machine.has("id", "#!/bin/sh\necho 0\n")
    machine.has("sleep", "#!/bin/sh\n")
    machine.has("apt-get", f'#!/bin/sh\necho "$*" >>{tmp_path}/apt-get.log\n')
    return machine


def test_python_packages_are_installed_once(machine: Machine) -> None:
    assert machine.run("set-up").returncode == 0
    again = machine.run("set-up")
    (asked,) = machine.log("pip")
    assert asked.endswith("-c constraints.txt -e .[dev]")
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_python_packages_are_installed_anew_when_the_lists_change(
    machine: Machine, name: str
) -> None:
    machine.run("set-up")
    in_a_minute = time.time() + 60
    os.utime(machine.clone / name, (in_a_minute, in_a_minute))
    machine.run("set-up")
    assert len(machine.log("pip")) == 2


def test_an_environment_whose_python_is_gone_is_made_anew(machine: Machine) -> None:
    machine.run("set-up")
    (machine.clone / ".venv/bin/python").unlink()
    assert machine.run("set-up").returncode == 0
    assert len(machine.log("pip")) == 2


def test_a_failure_of_pip_is_tried_again_explained_and_not_taken_for_done(
    machine: Machine,
) -> None:
    (machine.clone / "no-network").touch()
    failed = machine.run("set-up")
    assert failed.returncode == 1
    assert "pip failed" in failed.stderr
    assert len(machine.log("pip")) == 3
    (machine.clone / "no-network").unlink()
    assert machine.run("set-up").returncode == 0
    assert len(machine.log("pip")) == 4


def test_root_gets_the_debian_packages_that_are_missing(machine: Machine) -> None:
    done = machine.run("set-up", "sh", "missing-server", "missing-extra?")
    assert done.returncode == 0, done.stderr
    update, install = machine.log("apt-get")
    assert update.endswith("update")
    assert install.endswith("install --no-install-recommends missing-server missing-extra")


def test_nobody_else_gets_them_but_the_command_that_installs_them(machine: Machine) -> None:
    machine.has("id", "#!/bin/sh\necho 1000\n")
    done = machine.run("set-up", "missing-server")
    assert done.returncode == 1
    assert "\n    sudo apt-get install missing-server\n" in done.stderr
    assert machine.log("apt-get") == []


def test_without_root_the_optional_ones_are_left_out(machine: Machine) -> None:
    machine.has("id", "#!/bin/sh\necho 1000\n")
    done = machine.run("set-up", "missing-extra?")
    assert done.returncode == 0
    assert "going on without missing-extra" in done.stderr


def test_a_python_that_is_too_old_is_named(machine: Machine) -> None:
    machine.has("python3", '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    for newer in ("3.11", "3.12", "3.13", "3.14"):
        machine.has(f"python{newer}", "#!/bin/sh\nexit 1\n")
    done = machine.run("set-up")
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed; python3 is Python 3.9.2" in done.stderr


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "there is no kong"),
        ("#!/bin/sh\necho 3.8.1\n", "this is 3.8.1"),
    ],
)
def test_end_to_end_tests_on_kong_are_refused_without_it(
    machine: Machine, script: str | None, words: str
) -> None:
    if script:
        machine.has("kong", script)
    done = machine.run("gateway-check", "kong")
    assert done.returncode == 2
    assert words in done.stderr


def test_end_to_end_tests_run_on_a_kong_of_the_right_series(machine: Machine) -> None:
    machine.has("kong", "#!/bin/sh\necho 3.9.1\n")
    assert machine.run("gateway-check", "kong").returncode == 0


def test_end_to_end_tests_on_compose_are_refused_without_an_engine(machine: Machine) -> None:
    machine.has("docker", "#!/bin/sh\nexit 1\n")
    done = machine.run("gateway-check", "compose")
    assert done.returncode == 2
    assert "needs a Docker engine" in done.stderr


def test_make_says_so_too(machine: Machine) -> None:
    done = subprocess.run(
        ["make", "e2e", "GATEWAY=none"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "GATEWAY is dev, kong or compose, not 'none'" in done.stderr


def test_help_names_every_target_of_the_readme_and_of_ci(machine: Machine) -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^make (\S+)", done.stdout, re.MULTILINE))
    assert {"run", "demo", "test", "lint", "bench", "e2e", "help"} <= listed
    texts = (ROOT / ".ci/run").read_text() + (ROOT / "README.md").read_text()
    assert set(re.findall(r"^\s*make ([a-z]+)", texts, re.MULTILINE)) <= listed


def test_an_unknown_benchmark_is_refused_with_the_names_there_are(machine: Machine) -> None:
    (machine.clone / "benchmarks").mkdir()
    (machine.clone / "benchmarks" / "decide.py").touch()
    done = machine.run("bench", "none")
    assert done.returncode == 2
    assert "SUITE is one of: decide" in done.stderr
