"""The images' recipes, as far as they run without an engine: each step, in the same order."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.access import Tokens
from support.authority import Authority
from support.redis_server import free_port, wait_until
from support.service import serve_in_thread

ROOT = Path(__file__).resolve().parents[2]
DECISION_SVC = "decision-svc/Dockerfile"
PLUGIN_SERVER = "plugin/Dockerfile"
KONG = "kong/Dockerfile"
CONTROLLER = "deploy/controller/Dockerfile"
IMAGES = [DECISION_SVC, PLUGIN_SERVER, KONG, CONTROLLER]
VENV = "/opt/canary"
START_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One instruction of a Dockerfile."""

    word: str
    rest: str


def stages(dockerfile: str) -> list[list[Step]]:
    """The steps of each stage, its FROM first; what stands before the first one is left out."""
    text = "\n".join(
        line for line in (ROOT / dockerfile).read_text().splitlines() if not line.startswith("#")
    )
    found: list[list[Step]] = []
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        if word and found:
            found[-1].append(Step(word=word, rest=rest.strip()))
    return found


def last(dockerfile: str, word: str) -> str:
    """What the final stage says last with this word."""
    return [step.rest for step in stages(dockerfile)[-1] if step.word == word][-1]


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path of the repository into the build."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = [path, *path.split("/")] if "**/" in line else [path.split("/")[0]]
        if any(fnmatch.fnmatch(part, pattern) for part in parts):
            sent = line.startswith("!")
    return sent


def copy(rest: str, into: Path) -> None:
    """COPY sources into a folder, without what .dockerignore keeps out."""

    def unsent(folder: str, names: list[str]) -> list[str]:
        base = Path(folder).relative_to(ROOT)
        return [name for name in names if not is_sent((base / name).as_posix())]

    *sources, target = rest.split()
    for source in sources:
        assert is_sent(source), f"{source} is kept out by .dockerignore"
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, into / target, ignore=unsent)
        else:
            shutil.copy(ROOT / source, into / target)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Where pip finds all that the images install: the index is asked once, not by each build.

    Nor does pip compile everything (pip reads "no compile: no" so): what runs is compiled then.
    """
    folder = tmp_path_factory.mktemp("wheels")
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = described["project"]
    extras = {
        extra
        for dockerfile in IMAGES
        for named in re.findall(r"'\.\[(.+?)\]'", (ROOT / dockerfile).read_text())
        for extra in named.split(",")
    }
    wanted = [*described["build-system"]["requires"], *project["dependencies"]]
    wanted += [name for extra in extras for name in project["optional-dependencies"][extra]]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    subprocess.run([*download, "-c", "constraints.txt", *wanted], cwd=ROOT, check=True)
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_NO_COMPILE": "no"}


def build(dockerfile: str, folder: Path, wheels: Mapping[str, str]) -> Path:
    """Take the steps of the build stage in a folder; answers the environment they made."""
    source, venv = folder / "src", folder / "venv"
    source.mkdir()
    # This interpreter is the image's: an activated environment must not be.
    path = f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}"
    for step in stages(dockerfile)[0]:
        if step.word == "COPY":
            copy(step.rest, source)
        elif step.word == "RUN" and "apt-get" not in step.rest:
            done = subprocess.run(
                ["sh", "-c", step.rest.replace(VENV, str(venv))],
                cwd=source,
                env={**os.environ, **wheels, "PATH": path, "PYTHONPATH": ""},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{step.rest}\n{done.stdout}\n{done.stderr}"
    return venv


def image_environment(dockerfile: str, venv: Path) -> dict[str, str]:
    """The final stage's ENV."""
    settings = dict(setting.split("=", 1) for setting in shlex.split(last(dockerfile, "ENV")))
    settings["PATH"] = f"{venv / 'bin'}:{os.environ['PATH']}"
    return os.environ | settings


@contextmanager
def started(dockerfile: str, environment: dict[str, str], ready: str) -> Iterator[None]:
    """The image's ENTRYPOINT, running and ready; at SIGTERM it ends well."""
    command = json.loads(last(dockerfile, "ENTRYPOINT"))
    command[0] = str(shutil.which(command[0], path=environment["PATH"]))
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if ready in line:
                    break
            else:
                pytest.fail("".join(said))
            yield
        finally:
            process.terminate()
            _, said_last = process.communicate(timeout=START_S)
        assert process.returncode == 0, said_last


def is_healthy(dockerfile: str, environment: dict[str, str]) -> bool:
    """Run the image's HEALTHCHECK."""
    command = json.loads(last(dockerfile, "HEALTHCHECK").partition(" CMD ")[2])
    command[0] = str(shutil.which(command[0], path=environment["PATH"]))
    done = subprocess.run(
        command, env=environment, capture_output=True, timeout=START_S, check=False
    )
    return done.returncode == 0


def becomes_healthy(dockerfile: str, environment: dict[str, str]) -> None:
    """Wait until its HEALTHCHECK is content: a program may be up before all is well."""
    wait_until(lambda: is_healthy(dockerfile, environment), START_S)


def is_answering(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), START_S):
        return True


def works(command: Path) -> bool:
    """Whether a command is there and can do what its help says."""
    if not command.exists():
        return False
    return subprocess.run([command, "--help"], capture_output=True, check=False).returncode == 0


def test_the_decision_service_s_image_builds_serves_and_knows_its_health(
    tmp_path: Path, wheels: Mapping[str, str]
) -> None:
    built = image_environment(DECISION_SVC, build(DECISION_SVC, tmp_path, wheels)) | {
        "CANARY_LISTEN": "127.0.0.1:0",
        "CANARY_ADMIN_LISTEN": "127.0.0.1:0",
        "CANARY_METRICS_LISTEN": "127.0.0.1:0",
        "PYTHONPATH": "",
    }
    for settings in ({"CANARY_INSECURE": "1"}, secured(tmp_path)):
        health = {"CANARY_HEALTH_LISTEN": f"127.0.0.1:{free_port()}"}
        environment = built | settings | health
        with started(DECISION_SVC, environment, '"ready"'):
            becomes_healthy(DECISION_SVC, environment)
        assert not is_healthy(DECISION_SVC, environment)
    assert not (tmp_path / "venv/bin/pip").exists()


def secured(folder: Path) -> dict[str, str]:
    """What makes every port of a service ask for a certificate, but that of health."""
    authority = Authority(folder / "ca")
    server = authority.server()
    tokens = Tokens(folder / "access.yml")
    tokens.new("gateways", {"*": "gateway"})
    return {
        "CANARY_ACCESS_FILE": tokens.write(),
        "CANARY_TLS_CERT": str(server.certificate),
        "CANARY_TLS_KEY": str(server.key),
        "CANARY_TLS_CLIENT_CA": str(authority.file),
    }


def test_the_decision_service_s_image_tells_its_health_to_nobody_else() -> None:
    settings = dict(setting.split("=", 1) for setting in shlex.split(last(DECISION_SVC, "ENV")))
    host, _, port = settings["CANARY_HEALTH_LISTEN"].rpartition(":")
    assert host == "127.0.0.1"
    assert port not in last(DECISION_SVC, "EXPOSE").split()


def test_the_controller_s_image_builds_with_canaryctl_and_tells_its_health(
    tmp_path: Path, wheels: Mapping[str, str]
) -> None:
    venv = build(CONTROLLER, tmp_path, wheels)
    environment = image_environment(CONTROLLER, venv) | {
        "CANARY_CONTROLLER_METRICS_LISTEN": "127.0.0.1:0",
        "CANARY_CONTROLLER_HEALTH_LISTEN": f"127.0.0.1:{free_port()}",
        "PYTHONPATH": "",
    }
    with serve_in_thread() as service:
        environment["CANARY_CONTROLLER_ADMIN"] = service.admin_address
        with started(CONTROLLER, environment, "holds the lease"):
            becomes_healthy(CONTROLLER, environment)
    # Nobody answers there any more: it runs, looks for the service, and is not well.
    with started(CONTROLLER, environment, "releases are not seen to"):
        assert not is_healthy(CONTROLLER, environment)
        assert is_answering(environment["CANARY_CONTROLLER_HEALTH_LISTEN"])
    done = subprocess.run([venv / "bin/canaryctl", "--version"], capture_output=True, check=True)
    assert b"canaryctl" in done.stdout
    for tool in ("pip", "canary-decision-svc"):
        assert not works(venv / "bin" / tool)


def test_the_plugin_s_images_build_describe_the_plugin_and_serve_it(
    tmp_path: Path, wheels: Mapping[str, str]
) -> None:
    venv = build(KONG, tmp_path, wheels)
    described = subprocess.run(
        [venv / "bin/canary-plugin-server", "--dump"], capture_output=True, check=True
    )
    assert b'"canary-release"' in described.stdout

    at = tmp_path / "plugin.sock"
    environment = image_environment(PLUGIN_SERVER, venv) | {
        "CANARY_PLUGIN_SOCKET": str(at),
        "CANARY_PLUGIN_DECISION_SERVICE": "127.0.0.1:1",
        "PYTHONPATH": "",
    }
    with started(PLUGIN_SERVER, environment, "ready"):
        becomes_healthy(PLUGIN_SERVER, environment)
        assert stat.S_IMODE(at.stat().st_mode) == 0o660
    assert not is_healthy(PLUGIN_SERVER, environment)


def test_kong_s_image_and_the_plugin_server_s_are_built_by_the_same_steps() -> None:
    def common(dockerfile: str) -> list[Step]:
        *steps, check = stages(dockerfile)[0][1:]
        assert check.rest.startswith("/opt/canary/bin/canary-plugin-server --")
        return [s for s in steps if s.word != "USER" and "apt-get" not in s.rest]

    assert common(KONG) == common(PLUGIN_SERVER)


@pytest.mark.parametrize("dockerfile", IMAGES)
def test_no_image_runs_as_root(dockerfile: str) -> None:
    assert last(dockerfile, "USER") in {"canary", "kong"}
    assert last(dockerfile, "HEALTHCHECK")


@pytest.mark.parametrize("dockerfile", IMAGES)
def test_every_image_has_a_base_of_one_series_that_can_be_pinned_by_its_digest(
    dockerfile: str,
) -> None:
    text = (ROOT / dockerfile).read_text()
    ((name, base),) = re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", text, re.MULTILINE)
    assert re.fullmatch(r"(python:3\.\d+-slim-\w+|kong:3\.\d+\.\d+)", base)
    bases = [stage[0].rest.removesuffix(" AS build") for stage in stages(dockerfile)]
    assert bases == [f"${{{name}}}"] * 2


@pytest.mark.parametrize("dockerfile", IMAGES)
def test_what_is_built_takes_no_installer_along(dockerfile: str) -> None:
    steps = [step.rest for step in stages(dockerfile)[0] if step.word == "RUN"]
    gone = next(n for n, step in enumerate(steps) if "pip uninstall --yes" in step)
    assert [step for step in steps[gone + 1 :] if "pip" in step.split()] == []
    (copied,) = [s.rest for s in stages(dockerfile)[-1] if s.rest.startswith("--from=build")]
    assert copied == f"--from=build {VENV} {VENV}"


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("pyproject.toml", True),
        ("kong/kong.conf", True),
        ("decision-svc/canary_engine/decide.py", True),
        ("decision-svc/canary_engine/__pycache__/decide.cpython-312.pyc", False),
        ("kong/Dockerfile", False),
        (".venv/bin/python", False),
        (".git/config", False),
        ("tests/system/test_packaging_images.py", False),
    ],
)
def test_only_what_images_need_is_sent_to_the_engine(path: str, sent: bool) -> None:
    assert is_sent(path) is sent
