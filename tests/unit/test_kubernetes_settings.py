"""Ports, sockets, files and options in deploy/kubernetes agree with what the programs have."""

from __future__ import annotations

import importlib
import re
from pathlib import Path, PurePosixPath
from typing import Any

import click
import pytest
import yaml
from canary_plugin.schema import plugin_info
from dev_gateway.declarative import read_document
from dev_gateway.plugin_info import read_info
from support.manifests import (
    OVERLAYS,
    PROGRAMS,
    ROOT,
    Object,
    Pods,
    base_name,
    containers,
    dockerfile,
    environment,
    of_kind,
    pods,
    port_of,
    programs,
    scripts,
    secret,
    selects,
)


def command(container: Object) -> click.Command:
    module, _, name = scripts()[PROGRAMS[container["name"]]].partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, click.Command)
    return found


def test_every_program_that_is_started_is_there() -> None:
    assert set(PROGRAMS.values()) <= set(scripts())


def variables(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by the variable that sets them."""
    prefix = command.context_settings.get("auto_envvar_prefix")
    if prefix is None:
        return {}
    return {
        str(option.envvar or f"{prefix}_{str(option.name).upper()}"): option
        for option in command.params
        if isinstance(option, click.Option)
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_sets_an_option_that_exists(overlay: str) -> None:
    for _, container in programs(overlay):
        known = variables(command(container))
        given = {v["name"] for v in container.get("env", []) if v["name"].startswith("CANARY_")}
        assert given <= known.keys()
        for name, value in environment(overlay, container).items():
            if name.startswith("CANARY_"):
                known[name].type.convert(value, None, None)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_argument_is_an_option_that_exists(overlay: str) -> None:
    for _, container in programs(overlay):
        arguments = list(container.get("args", []))
        assert all(argument.startswith("--") for argument in arguments)
        # Parsed as the program parses it; a wrong one raises.
        command(container).make_context(container["name"], arguments)


def settings(overlay: str, container: Object) -> dict[str, str]:
    """What a container is told, by variables or arguments: the option's name and its value."""
    told = environment(overlay, container)
    found = {
        re.sub(r"^CANARY_(PLUGIN_|CONTROLLER_)?", "", name).lower().replace("_", "-"): value
        for name, value in told.items()
        if name.startswith("CANARY_")
    }
    for argument in container.get("args", []):
        if argument.startswith("--"):
            name, _, value = argument.removeprefix("--").partition("=")
            found[name] = value
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_ports_of_a_container_are_the_ones_it_is_told_to_listen_on(
    overlay: str, name: str
) -> None:
    (container,) = (c for _, c in containers(overlay) if c["name"] == name)
    listens = {k: v for k, v in settings(overlay, container).items() if k.endswith("listen")}
    assert {port_of(value) for value in listens.values()} == {
        port["containerPort"] for port in container["ports"]
    }
    for value in listens.values():
        # Not on the loopback interface, where neither probes nor others could reach it.
        assert value.startswith("0.0.0.0:")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_a_port_that_the_container_has(overlay: str) -> None:
    for _, container in containers(overlay):
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            for way in ("httpGet", "grpc", "tcpSocket"):
                if port := container.get(kind, {}).get(way, {}).get("port"):
                    assert port in named or port in named.values(), (container["name"], kind)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_gateways_and_the_controller_know_the_decision_service_by_its_services(
    overlay: str,
) -> None:
    kong, controller = pods(overlay)["kong"], pods(overlay)["controller"]
    asked = settings(overlay, kong.container("plugin-server"))["decision-service"]
    steered = settings(overlay, controller.container("controller"))["admin"]
    assert reached(overlay, asked) == [("decision-svc", "grpc")]
    assert reached(overlay, steered) == [("decision-svc", "admin")]
    # All replicas are found by the one name only if it stands for their own addresses.
    assert of_kind(overlay, "Service")[asked.partition(":")[0]]["spec"]["clusterIP"] == "None"


def reached(overlay: str, address: str) -> list[tuple[str, str]]:
    """The workloads, and the port of theirs, that HOST:PORT leads to through a Service."""
    host, _, port = address.partition(":")
    spec = of_kind(overlay, "Service")[host]["spec"]
    (target,) = (p["targetPort"] for p in spec["ports"] if p["port"] == int(port))
    selector = {"matchLabels": spec["selector"]}
    return [(p.name, target) for p in pods(overlay).values() if selects(selector, p.labels)]


def test_the_demo_s_decision_service_uses_the_demo_s_redis() -> None:
    container = pods("demo")["decision-svc"].container("decision-svc")
    url = environment("demo", container)["CANARY_REDIS_URL"]
    assert reached("demo", url.removeprefix("redis://").partition("/")[0]) == [("redis", "redis")]
    arguments = pods("demo")["redis"].container("redis")["args"]
    assert arguments[arguments.index("--port") + 1] == str(pods("demo")["redis"].ports["redis"])
    assert arguments[arguments.index("--appendonly") + 1] == "yes"
    (claim,) = of_kind("demo", "StatefulSet")["redis"]["spec"]["volumeClaimTemplates"]
    mounts = {
        m["name"]: m["mountPath"] for m in pods("demo")["redis"].containers[0]["volumeMounts"]
    }
    assert mounts[claim["metadata"]["name"]] == arguments[arguments.index("--dir") + 1]


def secrets_read(overlay: str) -> set[tuple[str, str]]:
    """Every (Secret, key) that some container reads: as a variable, or as a file it names."""
    found = set()
    for in_pods, container in containers(overlay):
        for variable in container.get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                found.add((reference["name"], reference["key"]))
        for value in settings(overlay, container).values():
            if value.startswith("/run/secrets/"):
                path = PurePosixPath(value)
                found.add((mounted_secret(in_pods, container, path.parent), path.name))
    return found


def mounted_secret(found: Pods, container: Object, folder: PurePosixPath) -> str:
    (name,) = (m["name"] for m in container["volumeMounts"] if m["mountPath"] == str(folder))
    return str(found.volume(name)["secret"]["secretName"])


def test_the_demo_makes_every_secret_that_is_read() -> None:
    assert len(secrets_read("demo")) == 4
    for name, key in secrets_read("demo"):
        assert key in secret("demo", name)


def test_the_page_names_every_secret_that_production_reads() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    named = set(re.findall(r"^\| `(canary-[\w-]+)` \| `([\w.-]+)` \|", page, re.MULTILINE))
    assert named == secrets_read("production")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_config_map_that_is_read_is_there_under_the_name_with_its_hash(overlay: str) -> None:
    known = of_kind(overlay, "ConfigMap")
    used = {
        source["configMapRef"]["name"]
        for _, container in containers(overlay)
        for source in container.get("envFrom", [])
    } | {
        volume["configMap"]["name"]
        for found in pods(overlay).values()
        for volume in found.spec.get("volumes", [])
        if "configMap" in volume
    }
    assert used == set(known)
    for name in used:
        assert re.fullmatch(re.escape(base_name(name)) + "-[a-z0-9]{10}", name)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_mounted_is_a_volume_and_each_volume_is_mounted(overlay: str) -> None:
    for name, found in pods(overlay).items():
        mounted = {m["name"] for c in found.containers for m in c.get("volumeMounts", [])}
        workload = of_kind(overlay, "Deployment", "StatefulSet")[name]
        claims = workload["spec"].get("volumeClaimTemplates", [])
        volumes = {v["name"] for v in found.spec.get("volumes", [])}
        assert mounted == volumes | {claim["metadata"]["name"] for claim in claims}


def kong_conf() -> dict[str, str]:
    lines = (ROOT / "kong/kong.conf").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kong_is_told_by_variables_what_its_settings_file_says(overlay: str) -> None:
    container = pods(overlay)["kong"].container("kong")
    told = {
        name.removeprefix("KONG_").lower(): value
        for name, value in environment(overlay, container).items()
        if name.startswith("KONG_")
    }
    written = kong_conf()
    where = PurePosixPath(told.pop("declarative_config"))
    del written["declarative_config"]
    assert {name: told.get(name) for name in written} == written
    assert set(told) - set(written) == {"prefix", "status_listen", "nginx_worker_processes"}
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    volume = pods(overlay)["kong"].volume(mounts[str(where.parent)])
    assert where.name in of_kind(overlay, "ConfigMap")[volume["configMap"]["name"]]["data"]
    assert mounts[told["prefix"]] == "kong-prefix"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kong_and_the_plugin_server_share_the_folder_of_both_sockets(overlay: str) -> None:
    kong = pods(overlay)["kong"]
    gateway, server = kong.container("kong"), kong.container("plugin-server")
    told, ours = environment(overlay, gateway), environment(overlay, server)
    sockets = PurePosixPath(ours["CANARY_PLUGIN_SOCKET"])
    assert told["KONG_PLUGINSERVER_CANARY_SOCKET"] == str(sockets)
    assert f"unix:{sockets.with_name('outcomes.sock')}," in told["KONG_NGINX_PROXY_ACCESS_LOG"]
    shared = {
        m["name"]
        for container in (gateway, server)
        for m in container["volumeMounts"]
        if m["mountPath"] == str(sockets.parent)
    }
    assert len(shared) == 1
    assert "emptyDir" in kong.volume(shared.pop())
    # Kong's image removes every socket below its prefix when it starts.
    assert PurePosixPath(told["KONG_PREFIX"]) not in sockets.parents
    probe = " ".join(server["startupProbe"]["exec"]["command"])
    assert f'"{sockets}"' in probe
    assert f'"{sockets.with_name("outcomes.sock")}"' in probe


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kong_may_connect_to_the_socket_by_the_group_that_the_pod_shares(overlay: str) -> None:
    kong = pods(overlay)["kong"]
    server = kong.container("plugin-server")
    group = kong.spec["securityContext"]["fsGroup"]
    assert server["securityContext"]["runAsGroup"] == group
    assert int(environment(overlay, server)["CANARY_PLUGIN_SOCKET_MODE"], 8) & 0o060 == 0o060


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_run_as_the_user_that_their_image_makes(overlay: str) -> None:
    for found, container in containers(overlay):
        made = re.search(r"groupadd --gid (\d+) canary .*useradd --uid (\d+)", recipe(container))
        if made:
            user = {**found.spec["securityContext"], **container["securityContext"]}
            assert (user["runAsGroup"], user["runAsUser"]) == (int(made[1]), int(made[2]))


def recipe(container: Object) -> str:
    return dockerfile(container["image"]).replace("\\\n", " ")


def declared(overlay: str) -> dict[str, Any]:
    (found,) = (c for c in of_kind(overlay, "ConfigMap").values() if "kong.yml" in c["data"])
    document: dict[str, Any] = yaml.safe_load(found["data"]["kong.yml"])
    return document


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kong_s_file_is_the_one_in_kong_but_for_where_the_versions_live(overlay: str) -> None:
    ours, theirs = declared(overlay), yaml.safe_load((ROOT / "kong/kong.yml").read_text())
    where = {u["name"]: [t["target"] for t in u["targets"]] for u in ours.pop("upstreams")}
    assert set(where) == {upstream["name"] for upstream in theirs.pop("upstreams")}
    assert ours == theirs
    assert where["yyc3-xy-api"] == ["yyc3-xy-api-stable:1229"]
    assert where["canary.yyc3-xy-api"] == ["yyc3-xy-api-canary:1229"]
    for target in ("stable", "canary"):
        name = f"yyc3-xy-api-{target}"
        assert reached(overlay, f"{name}:1229") == [(name, "http")]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kong_s_file_loads_with_the_plugin_s_own_schema(overlay: str) -> None:
    (described,) = plugin_info()
    plugin = read_info(described)
    config = read_document(declared(overlay), {plugin.name: plugin})
    assert [route.service and route.service.host for route in config.routes] == ["yyc3-xy-api"]
    assert "yyc3-xy-api" in config.upstreams


def test_the_page_tells_how_the_overlays_are_applied() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    for overlay in OVERLAYS:
        folder = Path("deploy/kubernetes/overlays") / overlay
        assert f"kubectl apply -k {folder}" in page
        assert (ROOT / folder).is_dir()
    assert "deploy/kubernetes/overlays/demo/make-secrets" in page
