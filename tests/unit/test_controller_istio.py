"""The file that names meshes, and how the cluster that has them is found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from canary_controller.__main__ import cluster_of, main
from canary_controller.mesh.settings import BadMeshFile, Entry, entries_in
from canary_istio.routes import Mesh
from click.testing import CliRunner
from support.process_wide import put_back

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/istio.md").read_text()
FILE = "services: {shop: {host: shop, namespace: prod}}"


def test_a_mesh_has_a_host_a_namespace_and_maybe_a_name_of_its_routes() -> None:
    text = """
    services:
      shop: {host: shop.prod.svc.cluster.local, namespace: prod}
      cart: {host: cart, namespace: prod, name: cart-routes, leave_out: true}
    """
    found = entries_in(text)
    assert found["shop"] == Entry(mesh=Mesh(host="shop.prod.svc.cluster.local", namespace="prod"))
    assert (found["shop"].mesh.name, found["cart"].mesh.name) == ("shop", "cart-routes")
    assert [found[key].leave_out for key in ("shop", "cart")] == [False, True]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "it is not YAML"),
        ("[]", "give a mapping with services"),
        ("{services: {}}", "give a mapping with services"),
        (f"{FILE}\nmore: 1", "and nothing else"),
        ("services: {shop: shop}", "services.shop: give a mapping with host and namespace"),
        ("services: {shop: {host: shop}}", "services.shop.namespace: give a name"),
        ("services: {shop: {host: 1, namespace: a}}", "services.shop.host: give a name"),
        ("services: {shop: {host: a/b, namespace: a}}", "services.shop.host: give a name"),
        ("services: {shop: {host: a, namespace: a.b}}", "services.shop.namespace: give a name"),
        ("services: {shop: {host: a, namespace: ..}}", "services.shop.namespace: give a name"),
        ("services: {a: {host: a, namespace: a, name: A}}", "services.a.name: give a name"),
        ("services: {a: {host: a, namespace: a, leave_out: 1}}", "leave_out: give true or false"),
        ("services: {a: {host: a, namespace: a, weight: 1}}", "services.a.weight: unknown"),
        (
            "services: {a: {host: x, namespace: n}, b: {host: x.n, namespace: n}}",
            "services.b: another service has the same namespace and name",
        ),
    ],
)
def test_a_mesh_file_that_is_wrong_says_where_and_what_to_do(text: str, complaint: str) -> None:
    with pytest.raises(BadMeshFile, match=re.escape(complaint)):
        entries_in(text)


def test_every_complaint_is_told_at_once() -> None:
    with pytest.raises(BadMeshFile) as caught:
        entries_in("services: {a: {host: A, namespace: B}, b: 1}")
    assert len(caught.value.complaints) == 5


def test_the_mesh_file_of_the_page_is_one() -> None:
    (text,) = re.findall(r"^```yaml\n(services:.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert set(yaml.safe_load(text)["services"]) == set(entries_in(text))


def test_a_pod_knows_its_own_cluster_and_nobody_else_does() -> None:
    def told(host: str) -> str:
        return cluster_of({"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "6443"})

    assert told("10.96.0.1") == "https://10.96.0.1:6443"
    assert told("fd00::1") == "https://[fd00::1]:6443"
    assert cluster_of({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}) == "https://10.96.0.1:443"
    assert cluster_of({}) == ""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--kubernetes-url", ""], "--kubernetes-url: say where the API server is"),
        (["--kubernetes-url", "10.0.0.1:6443"], "--kubernetes-url: give a URL like https://"),
        (["--kubernetes-url", "https://me:pw@10.0.0.1"], "--kubernetes-url: give a URL like"),
        (["--kubernetes-url", "http://127.0.0.1:99999"], "--kubernetes-url: "),
        (["--kubernetes-url", "http://10.0.0.1"], "a token is shown over https only"),
        (["--kubernetes-url", "http://127.0.0.1.example.com"], "shown over https only"),
        (["--kubernetes-token-file", "/nowhere/token"], "--kubernetes-token-file: "),
        (["--kubernetes-ca-file", "/nowhere/ca.crt"], "--kubernetes-ca-file: "),
        (["--istio-file", "/nowhere/istio.yaml"], "--istio-file: "),
    ],
)
def test_a_controller_does_not_start_with_a_cluster_that_makes_no_sense(
    tmp_path: Path, options: list[str], complaint: str
) -> None:
    (tmp_path / "istio.yaml").write_text(FILE)
    (tmp_path / "token").write_text("a-token")
    usual = {
        "--metrics-listen": "",
        "--istio-file": str(tmp_path / "istio.yaml"),
        "--kubernetes-url": "https://127.0.0.1:1",
        "--kubernetes-token-file": str(tmp_path / "token"),
        "--kubernetes-ca-file": "",
    }
    given = usual | dict(zip(options[::2], options[1::2], strict=True))
    with put_back():
        result = CliRunner().invoke(main, [word for pair in given.items() for word in pair])
    assert result.exit_code == 2
    assert complaint in result.output
    assert "a-token" not in result.output
