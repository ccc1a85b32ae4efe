"""What docs/kubernetes.md says can be done: its YAML builds, its commands name what is there."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest
import yaml
from canary_controller.__main__ import main
from support.manifests import (
    NAMESPACE,
    OVERLAYS,
    ROOT,
    Object,
    above,
    containers,
    objects,
    of_kind,
    pods,
    selects,
    validate,
)
from support.network_policies import Peer, arrows
from support.pod_security import breaches

PAGE = (ROOT / "docs/kubernetes.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [command.replace(r"\|", "|") for command in re.findall(r"`(kubectl[^`]+)`", PAGE)] + [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def block(about: str) -> str:
    """The YAML block that says this."""
    (found,) = (text for text in BLOCKS if about in text)
    return str(found)


def deployed(about: str, kind: str, name: str) -> Object:
    """An object as it is with a block of the page in an overlay above production."""
    (thing,) = (
        thing
        for thing in above("production", block(about))
        if thing["kind"] == kind and re.fullmatch(name, thing["metadata"]["name"])
    )
    return thing


@pytest.mark.parametrize("text", BLOCKS)
def test_every_block_of_yaml_changes_an_overlay_above_production_and_stays_valid(text: str) -> None:
    found = above("production", text)
    assert list(found) != list(objects("production"))
    for thing in found:
        for version in ("1.29", "1.37"):
            validate(thing, version)
        if thing["kind"] == "Deployment":
            assert list(breaches(thing["spec"]["template"]["spec"])) == []


def test_with_the_page_s_images_none_is_left_in_nobody_s_registry() -> None:
    before = {container["image"] for _, container in containers("production")}
    after = {
        container["image"]
        for thing in above("production", block("YOUR-REGISTRY"))
        if thing["kind"] == "Deployment"
        for kind in ("initContainers", "containers")
        for container in thing["spec"]["template"]["spec"].get(kind, [])
    }
    assert after == {
        f"YOUR-REGISTRY/{image.removeprefix('registry.yyc3.com/')}" for image in before
    }


def test_the_images_that_are_loaded_into_kind_are_ours_in_the_demo_with_their_tags() -> None:
    (command,) = (c for c in COMMANDS if c.startswith("kind load docker-image "))
    wanted = {c["image"] for _, c in containers("demo") if c["image"].startswith("canary-release/")}
    assert set(command.split()[3:]) == wanted
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    built = {service["image"] for service in compose["services"].values() if "build" in service}
    assert wanted <= built


@pytest.mark.parametrize("name", ["yyc3-xy-api-stable", "yyc3-xy-api-canary"])
def test_an_api_that_expects_another_user_or_writes_elsewhere_can_be_told_so(name: str) -> None:
    spec = deployed("runAsUser", "Deployment", name)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsUser"] == 1001
    assert container["securityContext"]["readOnlyRootFilesystem"] is False


def test_settings_of_kong_are_added_to_those_that_are_there() -> None:
    told = deployed("KONG_TRUSTED_IPS", "ConfigMap", "kong-settings-.*")["data"]
    (before,) = (c["data"] for n, c in of_kind("production", "ConfigMap").items() if "sett" in n)
    assert {name: told[name] for name in before} == before
    assert set(told) - set(before) == {
        "KONG_TRUSTED_IPS", "KONG_REAL_IP_HEADER", "KONG_REAL_IP_RECURSIVE",
    }  # fmt: skip


def test_what_the_controller_is_given_besides_are_options_and_files_that_are_mounted() -> None:
    spec = deployed("NOTIFY_FILE", "Deployment", "controller")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    options = {f"CANARY_CONTROLLER_{str(option.name).upper()}" for option in main.params}
    given = {v["name"]: v["value"] for v in container["env"] if "value" in v}
    assert len(given) == 3
    assert given.keys() <= options
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    for name, value in given.items():
        is_folder = name.endswith("_DIR")
        mount = mounts[value if is_folder else str(PurePosixPath(value).parent)]
        assert mount.get("readOnly", False) is not is_folder
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in spec["volumes"]}
    # What it had before it still has.
    assert "/run/secrets/controller" in mounts


def ways(about: str) -> set[tuple[str, str, int]]:
    """What a block of the page lets our pods reach besides, of some addresses."""
    outside = [
        Peer(name="v6", address="2001:db8::7", ports=frozenset({443, 5432, 6379, 8080})),
        Peer(name="credentials", address="fd00:ec2::254", ports=frozenset({80, 443})),
        Peer(name="dns", address="10.96.0.10", ports=frozenset({53, 443, 9153})),
    ]
    ours = [
        Peer(name=found.name, namespace=NAMESPACE, labels=found.labels)
        for found in pods("production").values()
    ]

    def of(found: tuple[Object, ...]) -> set[tuple[str, str, int]]:
        policies = [thing for thing in found if thing["kind"] == "NetworkPolicy"]
        return {(a, b, p) for a, b, p in arrows(policies, [*ours, *outside]) if b != "kong"}

    return of(above("production", block(about))) - of(objects("production"))


def test_addresses_of_ipv6_are_opened_as_those_of_ipv4_are() -> None:
    api = ("yyc3-xy-api-stable", "yyc3-xy-api-canary")
    assert ways("::/0") == {
        ("decision-svc", "v6", 443),
        ("decision-svc", "v6", 6379),
        ("controller", "v6", 443),
        *((version, "v6", port) for version in api for port in (443, 5432, 6379, 8080)),
    }


def test_a_dns_at_an_address_is_opened_for_names_alone() -> None:
    others = {"kong", "decision-svc", "controller"}
    assert {way for way in ways("10.96.0.10") if way[0] in others} == {
        (who, "dns", 53) for who in others
    }


def selector(command: str) -> tuple[str, bool, list[str]]:
    """A label, whether it is to be one of the values, and those."""
    one = re.search(r" -l ([\w./-]+)=([\w-]+)", command)
    if one:
        return one[1], True, [one[2]]
    several = re.search(r" -l '([\w./-]+) notin \(([\w, -]+)\)'", command)
    assert several, command
    return several[1], False, several[2].split(", ")


def is_applied(thing: Object, command: str) -> bool:
    label, is_one, values = selector(command)
    return (thing["metadata"].get("labels", {}).get(label) in values) is is_one


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_upgrade_applies_every_object_once_and_decision_services_before_gateways(
    overlay: str,
) -> None:
    steps = [command for command in COMMANDS if command.startswith("kubectl apply -k $new")]
    applied = [[thing for thing in objects(overlay) if is_applied(thing, step)] for step in steps]
    every = [id(thing) for step in applied for thing in step]
    assert sorted(every) == sorted(id(thing) for thing in objects(overlay))
    first, *others = applied
    assert [
        [thing["metadata"]["name"] for thing in step if thing["kind"] == "Deployment"]
        for step in others
    ] == [["decision-svc"], ["controller"], ["kong"]]
    # Whatever pods are made of is there before them.
    made_of = {"ConfigMap", "Secret", "ServiceAccount", "NetworkPolicy", "Namespace"}
    assert not made_of & {thing["kind"] for step in others for thing in step}
    assert made_of - {"Secret"} <= {thing["kind"] for thing in first}


def test_an_upgrade_waits_for_each_part_before_the_next() -> None:
    text = next(b for b in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) if "$new" in b)
    lines = [line for line in text.splitlines() if line.startswith("kubectl")]
    assert len(lines) == 7
    for apply, wait in zip(lines[1::2], lines[2::2], strict=True):
        _, _, (name,) = selector(apply)
        assert f"rollout status deployment/{name} " in wait


def test_commands_name_workloads_and_ports_that_are_there() -> None:
    asked = [c for c in COMMANDS if c.startswith(f"kubectl -n {NAMESPACE}")]
    assert len(asked) > 12
    for command in asked:
        for name in re.findall(r"deployment/([\w-]+)", command):
            assert name in of_kind("production", "Deployment"), command
        for name in re.findall(r"(?:exec|exec -i|pod|statefulset)[ /](redis\w*)", command):
            assert name in of_kind("demo", "StatefulSet"), command
        for kind, name, port in re.findall(r"port-forward (\w+)/([\w-]+) \d+:(\d+)", command):
            assert int(port) in ports(kind, name), command
        for label, value in re.findall(r" -l ([\w./-]+)=([\w-]+)", command):
            wanted = {"matchLabels": {label: value}}
            assert any(selects(wanted, found.labels) for found in pods("production").values())


def ports(kind: str, name: str) -> set[int]:
    if kind == "service":
        return {p["port"] for p in of_kind("production", "Service")[name]["spec"]["ports"]}
    return set(pods("production")[name].ports.values())


def test_every_label_of_a_namespace_that_opens_a_way_is_on_the_page() -> None:
    told = set(re.findall(r"^\| `(canary-release/\w+)`", PAGE, re.MULTILINE))
    found = {
        label
        for overlay in OVERLAYS
        for policy in of_kind(overlay, "NetworkPolicy").values()
        for rule in [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
        for peer in [*rule.get("from", []), *rule.get("to", [])]
        for label in peer.get("namespaceSelector", {}).get("matchLabels", {})
        if label.startswith("canary-release/")
    }
    assert told == found
