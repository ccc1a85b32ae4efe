"""What docker-compose.yml says is valid and agrees with what it starts."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from canary_controller.__main__ import main as controller
from canary_controller.notify.settings import settings_in
from canary_plugin.__main__ import main as plugin_server
from canaryctl.options import global_options
from decision_svc.__main__ import main as decision_svc
from decision_svc.access import credentials

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"

PROFILES = ["observability", "redis-cluster", "tools"]

# What is meant to be reached from outside; everything else stays among the containers.
PUBLISHED = {"kong": ["127.0.0.1:8000:8000"]}


@functools.cache
def services() -> dict[str, dict[str, Any]]:
    """The services with their anchors merged."""
    document: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())
    return document["services"]


def compose_command() -> list[str]:
    """docker-compose, or the compose of docker; neither needs an engine to read a file."""
    for name in ("docker-compose", "/usr/libexec/docker/cli-plugins/docker-compose"):
        if found := shutil.which(name):
            return [found]
    if docker := shutil.which("docker"):
        asked = subprocess.run([docker, "compose", "version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return [docker, "compose"]
    return []


def composed(*files: Path) -> subprocess.CompletedProcess[str]:
    command = compose_command()
    if not command:
        assert "CI" not in os.environ, "CI validates the compose file: docker-compose is missing"
        pytest.skip("needs docker-compose: apt-get install docker-compose")
    named = [word for file in files for word in ("-f", str(file))]
    profiles = [word for profile in PROFILES for word in ("--profile", profile)]
    return subprocess.run(
        [*command, *named, *profiles, "--project-directory", str(ROOT), "config"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_compose_accepts_the_file() -> None:
    done = composed(COMPOSE)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(services())


def test_compose_refuses_a_file_with_an_unknown_setting(tmp_path: Path) -> None:
    document = yaml.safe_load(COMPOSE.read_text())
    document["services"]["kong"]["depends_on"]["plugin-server"]["conditions"] = "healthy"
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(yaml.safe_dump(document))
    done = composed(wrong)
    assert done.returncode != 0
    assert "conditions" in done.stderr


def test_only_the_proxy_is_published_and_on_the_loopback_interface() -> None:
    published = {name: s["ports"] for name, s in services().items() if "ports" in s}
    assert published == PUBLISHED


@pytest.mark.parametrize("name", services())
def test_every_container_is_confined(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", services())
def test_every_container_but_a_person_s_tool_is_restarted_and_watched(name: str) -> None:
    service = services()[name]
    if service.get("profiles") == ["tools"]:
        assert service["restart"] == "no"
        return
    assert service["restart"] == "unless-stopped"
    assert "healthcheck" in service or "\nHEALTHCHECK " in dockerfile(service)


def networks(name: str) -> set[str]:
    return set(services()[name]["networks"])


def test_only_decision_services_reach_redis_and_the_versions_reach_nothing_of_ours() -> None:
    document = yaml.safe_load(COMPOSE.read_text())
    assert document["networks"] == {"api": None, "control": None, "store": {"internal": True}}
    on = {
        network: {name for name in services() if network in networks(name)}
        for network in document["networks"]
    }
    redis = {name for name in services() if name.startswith("redis")}
    assert on["store"] == {*decision_services(), *redis}
    assert on["api"] == {"kong", "plugin-server", "yyc3-xy-api", "yyc3-xy-api-canary"}
    assert on["control"] == {
        *decision_services(),
        *controllers(),
        *("plugin-server", "prometheus", "grafana", "canaryctl"),
    }


@pytest.mark.parametrize("name", services())
def test_whoever_names_another_container_is_on_a_network_with_it(name: str) -> None:
    service = services()[name]
    words = [*service.get("environment", {}).values(), *map(str, service.get("command", []))]
    named = {host for word in words for host in re.findall(r"([a-z][\w-]*):\d+", word)}
    for other in named & services().keys():
        assert networks(name) & networks(other), f"{name} does not reach {other}"


def test_images_that_are_built_here_have_the_version_as_their_tag() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {s["image"] for s in services().values() if s["image"].startswith("canary-release/")}
    assert images == {
        f"canary-release/{name}:{version}"
        for name in ("decision-svc", "plugin-server", "kong", "controller")
    }


@pytest.mark.parametrize("name", services())
def test_every_image_that_is_not_built_here_has_a_tag_of_its_series(name: str) -> None:
    service = services()[name]
    if "build" not in service and not service["image"].startswith("canary-release/"):
        _, _, tag = service["image"].partition(":")
        assert re.match(r"v?\d+\.\d+", tag)


def test_only_what_is_asked_for_by_a_profile_may_be_missing() -> None:
    asked = {name: s["profiles"] for name, s in services().items() if "profiles" in s}
    assert asked == {
        "grafana": ["observability"],
        "canaryctl": ["tools"],
        **{name: ["redis-cluster"] for name in (*nodes(), "redis-cluster")},
    }
    for name, service in services().items():
        if name not in asked:
            assert not asked.keys() & service.get("depends_on", {})


@pytest.mark.parametrize(
    ("file", "ports"),
    [
        ("grafana-port.yml", {"grafana": "3000:3000"}),
        ("admin-port.yml", {"decision-1": "9091:9091", "decision-2": "9092:9091"}),
    ],
)
def test_more_is_published_by_files_of_their_own_on_the_loopback_interface(
    file: str, ports: dict[str, str]
) -> None:
    added = yaml.safe_load((ROOT / "deploy/compose" / file).read_text())
    assert added == {
        "services": {name: {"ports": [f"127.0.0.1:{pair}"]} for name, pair in ports.items()}
    }
    for name, pair in ports.items():
        listening = [v for k, v in environment(name).items() if k.endswith("LISTEN")]
        assert name == "grafana" or port(pair) in map(port, listening)
    done = composed(COMPOSE, ROOT / "deploy/compose" / file)
    assert done.returncode == 0, done.stderr


def test_grafana_starts_with_the_rest_unless_somebody_says_otherwise() -> None:
    lines = (ROOT / ".env").read_text().splitlines()
    (setting,) = (line for line in lines if not line.startswith("#"))
    assert setting == "COMPOSE_PROFILES=observability"


def test_people_s_canaryctl_is_the_image_s_and_knows_whom_to_call_with_which_token() -> None:
    tool = services()["canaryctl"]
    assert tool["image"] == services()["controller-1"]["image"]
    assert "/opt/canary/bin/canaryctl --help" in dockerfile(services()["controller-1"])
    known = {option.envvar for option in global_options(is_root=True)}
    assert tool["environment"].keys() <= known
    host, _, number = tool["environment"]["CANARYCTL_ADDRESS"].partition(":")
    assert environment(host)["CANARY_ADMIN_LISTEN"].endswith(f":{number}")


@pytest.mark.parametrize("name", services())
def test_nothing_starts_before_what_it_needs_is_healthy(name: str) -> None:
    for needed, how in services()[name].get("depends_on", {}).items():
        assert needed in services()
        assert how == {"condition": "service_healthy"}


def test_the_plugin_server_is_healthy_before_kong_starts() -> None:
    assert "plugin-server" in services()["kong"]["depends_on"]


@pytest.mark.parametrize("name", services())
def test_every_file_that_is_mounted_or_built_from_is_there(name: str) -> None:
    service = services()[name]
    for volume in service.get("volumes", []):
        if isinstance(volume, str) and volume.startswith("."):
            source, _, how = volume.split(":")
            assert (ROOT / source).exists()
            assert how == "ro"
    if "build" in service:
        assert (ROOT / service["build"]["dockerfile"]).is_file()


def dockerfile(service: dict[str, Any]) -> str:
    return (ROOT / service["build"]["dockerfile"]).read_text() if "build" in service else ""


def environment(name: str) -> dict[str, str]:
    """What a container of ours sees: its image's environment, then the compose file's."""
    lines = dockerfile(services()[name]).replace("\\\n", " ").splitlines()
    image = dict(
        setting.split("=", 1)
        for line in lines
        if line.startswith("ENV ")
        for setting in line.removeprefix("ENV ").split()
    )
    composed: dict[str, str] = services()[name].get("environment", {})
    return image | composed


def settings(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by the variable that sets them."""
    prefix = command.context_settings["auto_envvar_prefix"]
    return {
        str(option.envvar or f"{prefix}_{str(option.name).upper()}"): option
        for option in command.params
        if isinstance(option, click.Option)
    }


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("decision-1", decision_svc),
        ("decision-2", decision_svc),
        ("plugin-server", plugin_server),
        ("controller-1", controller),
        ("controller-2", controller),
    ],
)
def test_every_variable_sets_an_option_that_exists(name: str, command: click.Command) -> None:
    known = settings(command)
    ours = {k: v for k, v in environment(name).items() if k.startswith("CANARY_")}
    assert ours
    for variable, value in ours.items():
        known[variable].type.convert(value, None, None)


def kong_conf() -> dict[str, str]:
    lines = (ROOT / "kong/kong.conf").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}


def test_kong_and_the_plugin_server_name_the_same_socket_in_the_shared_volume() -> None:
    socket = Path(kong_conf()["pluginserver_canary_socket"])
    assert str(socket) == environment("plugin-server")["CANARY_PLUGIN_SOCKET"]
    assert f"plugin-socket:{socket.parent}" in services()["plugin-server"]["volumes"]
    (kongs,) = (v for v in services()["kong"]["volumes"] if isinstance(v, dict))
    assert (kongs["source"], kongs["target"]) == ("plugin-socket", str(socket.parent))


def test_the_socket_is_not_where_kong_s_image_clears_sockets_away() -> None:
    prefix = Path(services()["kong"]["environment"]["KONG_PREFIX"])
    assert prefix not in Path(kong_conf()["pluginserver_canary_socket"]).parents


def test_kong_may_connect_to_the_socket_by_the_group_of_the_plugin_server() -> None:
    assert int(environment("plugin-server")["CANARY_PLUGIN_SOCKET_MODE"], 8) & 0o060 == 0o060
    group = "groupadd --gid 10001 canary"
    assert group in dockerfile(services()["plugin-server"])
    assert group in dockerfile(services()["kong"])
    assert "usermod --append --groups canary kong" in dockerfile(services()["kong"])


def port(address: str) -> str:
    return address.rpartition(":")[2].split()[0]


def test_kong_listens_where_its_port_is_published() -> None:
    (published,) = services()["kong"]["ports"]
    assert port(kong_conf()["proxy_listen"]) == port(published)
    assert kong_conf()["admin_listen"] == kong_conf()["admin_gui_listen"] == "off"


def test_the_plugin_server_knows_every_decision_service() -> None:
    addresses = environment("plugin-server")["CANARY_PLUGIN_DECISION_SERVICE"].split(",")
    assert addresses == [
        f"{name}:{port(environment(name)['CANARY_LISTEN'])}" for name in decision_services()
    ]


def test_prometheus_scrapes_every_decision_service_and_the_plugin_server() -> None:
    document = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    targets = [
        target
        for job in document["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    ]
    assert targets == [
        *(
            f"{name}:{port(environment(name)['CANARY_METRICS_LISTEN'])}"
            for name in decision_services()
        ),
        f"plugin-server:{port(environment('plugin-server')['CANARY_PLUGIN_METRICS_LISTEN'])}",
        *(
            f"{name}:{port(environment(name)['CANARY_CONTROLLER_METRICS_LISTEN'])}"
            for name in controllers()
        ),
    ]


def test_prometheus_reads_its_rules_where_they_are_mounted() -> None:
    document = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert document["rule_files"] == ["rules/*.yml"]
    mounted = services()["prometheus"]["volumes"]
    assert "./deploy/prometheus/prometheus.yml:/etc/prometheus/prometheus.yml:ro" in mounted
    assert "./deploy/prometheus/rules:/etc/prometheus/rules:ro" in mounted


def test_each_controller_has_a_name_and_a_decision_service_of_its_own() -> None:
    found = [environment(name) for name in controllers()]
    assert [e["CANARY_CONTROLLER_HOLDER"] for e in found] == controllers()
    assert [e["CANARY_CONTROLLER_ADMIN"] for e in found] == [
        f"{name}:{port(environment(name)['CANARY_ADMIN_LISTEN'])}" for name in decision_services()
    ]
    for environment_ in found:
        assert environment_["CANARY_CONTROLLER_PROMETHEUS_URL"] == "http://prometheus:9090"


def controllers() -> list[str]:
    return [name for name in services() if name.startswith("controller-")]


def decision_services() -> list[str]:
    return [name for name in services() if name.startswith("decision-")]


def test_the_decision_services_use_the_redis_that_keeps_its_data() -> None:
    for name in decision_services():
        assert environment(name)["CANARY_REDIS_URL"] == "redis://redis:6379/0"
    redis = services()["redis"]
    assert redis["command"][:3] == ["redis-server", "--appendonly", "yes"]
    assert "redis-data:/data" in redis["volumes"]


def nodes() -> list[str]:
    return [name for name in services() if re.fullmatch(r"redis-\d", name)]


def on_a_cluster() -> dict[str, Any]:
    """What deploy/compose/redis-cluster.yml makes of the services."""
    done = composed(COMPOSE, ROOT / "deploy/compose/redis-cluster.yml")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = yaml.safe_load(done.stdout)
    return dict(document["services"])


def test_on_a_cluster_the_decision_services_know_every_server_and_wait_for_it() -> None:
    found = on_a_cluster()
    for name in decision_services():
        url = found[name]["environment"]["CANARY_REDIS_URL"]
        assert url == "redis+cluster://" + ",".join(f"{node}:6379" for node in nodes())
        assert found[name]["depends_on"] == {"redis-cluster": {"condition": "service_healthy"}}
        assert found[name]["environment"].keys() == services()[name]["environment"].keys()
    assert found["redis"]["scale"] == 0


def test_nobody_waits_for_the_one_redis_that_a_cluster_replaces() -> None:
    assert not [n for n, s in services().items() if "redis" in s.get("depends_on", {})]


def test_every_server_of_the_cluster_keeps_its_data_and_tells_its_name() -> None:
    assert len(nodes()) == 3
    for name in nodes():
        server = services()[name]
        assert (server["hostname"], server["volumes"]) == (name, [f"{name}-data:/data"])
        words = server["command"][-1].split()
        options = dict(zip(words[2::2], words[3::2], strict=True))
        assert options == {
            "--cluster-enabled": "yes",
            "--cluster-announce-hostname": '"$$(hostname)"',
            "--cluster-preferred-endpoint-type": "hostname",
            "--cluster-require-full-coverage": "no",
            "--appendonly": "yes",
            "--appendfsync": "always",
            "--maxmemory-policy": "noeviction",
        }
    joining = services()["redis-cluster"]
    everybody = [f"{name}:6379" for name in nodes()]
    assert joining["command"] == ["join-redis-cluster", *everybody]
    assert joining["healthcheck"]["test"] == ["CMD", "join-redis-cluster", "--check", *everybody]


@pytest.mark.parametrize("name", services())
def test_every_container_that_is_not_built_here_runs_as_somebody_else_than_root(name: str) -> None:
    # The images of Prometheus and Grafana have a user of their own; so has ours of canaryctl.
    if "build" not in services()[name] and name not in ("prometheus", "grafana", "canaryctl"):
        assert services()[name]["user"].partition(":")[0] not in ("", "root", "0")


def test_both_controllers_leave_their_reports_in_one_volume_that_they_may_write_to() -> None:
    for name in controllers():
        folder = environment(name)["CANARY_CONTROLLER_REPORTS_DIR"]
        assert services()[name]["volumes"] == [f"reports:{folder}"]
        owned = f"install -d -o canary -g canary -m 0750 {folder}"
        assert owned in dockerfile(services()[name])
        assert "\nUSER canary" in dockerfile(services()[name])


def test_kong_finds_both_versions_where_they_listen() -> None:
    document = yaml.safe_load((ROOT / "kong/kong.yml").read_text())
    for target in targets(document):
        host, _, number = target.partition(":")
        command = services()[host]["command"]
        assert port(command[command.index("--listen") + 1]) == number
        assert f"'127.0.0.1', {number}" in " ".join(services()[host]["healthcheck"]["test"])


def targets(document: dict[str, Any]) -> Iterator[str]:
    for service in document["services"]:
        yield service["url"].removeprefix("http://")
    for upstream in document["upstreams"]:
        for target in upstream["targets"]:
            yield target["target"]


def test_the_versions_differ() -> None:
    versions = {
        tuple(services()[name]["command"]) for name in ("yyc3-xy-api", "yyc3-xy-api-canary")
    }
    assert len(versions) == 2


CALLERS = {
    "admin": "admin-token",
    "gateways": "gateway-token",
    "controller": "controller-token",
}
VARIABLES = {
    "decision": {"CANARY_ACCESS_FILE": "access"},
    "plugin": {"CANARY_PLUGIN_TOKEN_FILE": "gateway-token"},
    "controller": {
        "CANARY_CONTROLLER_TOKEN_FILE": "controller-token",
        "CANARY_CONTROLLER_NOTIFY_FILE": "notify",
        "CANARY_CONTROLLER_WEBHOOK_SECRET_FILE": "webhook-secret",
    },
    "canaryctl": {"CANARYCTL_TOKEN_FILE": "admin-token"},
    "grafana": {"GF_SECURITY_ADMIN_PASSWORD__FILE": "grafana-password"},
}


@pytest.fixture
def make_secrets(tmp_path: Path) -> Path:
    script = tmp_path / "make-secrets"
    shutil.copy(ROOT / "deploy/compose/make-secrets", script)
    return script


def made_by(script: Path) -> dict[str, bytes]:
    subprocess.run([script], check=True, capture_output=True)
    return {file.name: file.read_bytes() for file in (script.parent / "secrets").iterdir()}


def test_every_caller_is_known_by_the_token_that_is_made_for_it(make_secrets: Path) -> None:
    made = made_by(make_secrets)
    assert made_by(make_secrets) == made, "a second time changes nothing"
    file = credentials.parse(made["access.yml"].decode())
    found = {entry.name: entry for entry in file.tokens}
    assert found.keys() == CALLERS.keys()
    for name, token in CALLERS.items():
        assert found[name].sha256 == hashlib.sha256(made[token]).hexdigest()
        assert len(made[token]) == len("canary_") + 43
    assert found["gateways"].grant.is_gateway


def test_secrets_that_came_later_are_added_to_those_that_are_there(make_secrets: Path) -> None:
    before = made_by(make_secrets)
    folder = make_secrets.parent / "secrets"
    (folder / "controller-token").unlink()
    entries = before["access.yml"].decode().splitlines(keepends=True)
    (folder / "access.yml").write_text("".join(e for e in entries if "controller" not in e))
    after = made_by(make_secrets)
    assert after["controller-token"] != before["controller-token"]
    assert {name: after[name] for name in ("admin-token", "gateway-token")} == {
        name: before[name] for name in ("admin-token", "gateway-token")
    }
    found = {e.name: e.sha256 for e in credentials.parse(after["access.yml"].decode()).tokens}
    assert found["controller"] == hashlib.sha256(after["controller-token"]).hexdigest()


def test_everybody_is_given_their_own_secret_as_a_file(make_secrets: Path) -> None:
    made_by(make_secrets)
    declared = yaml.safe_load(COMPOSE.read_text())["secrets"]
    given = {name for name, service in services().items() if "secrets" in service}
    assert given == {*decision_services(), *controllers(), "plugin-server", "grafana", "canaryctl"}
    for name in given:
        variables = VARIABLES[name.partition("-")[0]]
        assert services()[name]["secrets"] == list(variables.values())
        for variable, secret in variables.items():
            assert environment(name)[variable] == f"/run/secrets/{secret}"
            path = Path(declared[secret]["file"])
            assert path.parent == Path("deploy/compose/secrets")
            made = make_secrets.parent / "secrets" / path.name
            assert made.stat().st_mode & 0o004


def test_the_notify_file_that_is_made_is_one_and_tells_nobody_yet(make_secrets: Path) -> None:
    text = made_by(make_secrets)["notify.yml"].decode()
    assert settings_in(text).channels == {}
    example = re.search(r"channels:\n#( +ops: .*)", text)
    assert example is not None
    assert settings_in(f"channels:\n{example[1]}").channels.keys() == {"ops"}


def test_webhooks_are_signed_with_a_secret_that_stays(make_secrets: Path) -> None:
    made = made_by(make_secrets)["webhook-secret"]
    assert len(made) == 43
    assert made_by(make_secrets)["webhook-secret"] == made
