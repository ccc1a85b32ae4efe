"""The Redis adapter where Redis wants TLS, of one server and of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from decision_svc.store.protocol import StoreUnavailable
from support.authority import Authority, Files
from support.redis_cluster import RedisCluster, running_cluster
from support.redis_server import free_port, running_redis
from support.redis_store import opened, write

KEYS = [f"shop-{number}" for number in range(12)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("redis-authority"))


@pytest.fixture(scope="module")
def cluster(authority: Authority) -> Iterator[RedisCluster]:
    with running_cluster(*_options(authority), "--tls-cluster", "yes", tls=True) as cluster:
        yield cluster


async def test_one_server_is_asked_over_tls_with_a_certificate_of_its_client(
    authority: Authority,
) -> None:
    mine, port = authority.client("decision-svc"), free_port()
    with running_redis(options=[*_options(authority), "--tls-port", str(port)]):
        url = f"rediss://127.0.0.1:{port}/0?{_query(authority, mine)}"
        async with opened(url) as store:
            await write(store, 1)
            assert await store.revisions() == {"shop": 1}


async def test_every_server_of_a_cluster_is_asked_over_tls(
    authority: Authority, cluster: RedisCluster
) -> None:
    url = f"rediss+cluster://127.0.0.1:{cluster.servers[0].port}"
    async with opened(f"{url}?{_query(authority, authority.client('decision-svc'))}") as store:
        for key in KEYS:
            await write(store, 1, key)
        assert await store.revisions() == dict.fromkeys(KEYS, 1)


async def test_a_server_that_another_authority_signed_is_not_asked(
    authority: Authority, cluster: RedisCluster, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "another authority")
    url = f"rediss+cluster://127.0.0.1:{cluster.servers[0].port}"
    async with opened(f"{url}?{_query(stranger, authority.client('decision-svc'))}") as store:
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            await store.revisions()


async def test_a_cluster_with_tls_cannot_be_asked_without_it(cluster: RedisCluster) -> None:
    async with opened(f"redis+cluster://127.0.0.1:{cluster.servers[0].port}") as store:
        with pytest.raises(StoreUnavailable):
            await store.revisions()


def _options(authority: Authority) -> Sequence[str]:
    server = authority.server()
    certificate = ("--tls-cert-file", str(server.certificate), "--tls-key-file", str(server.key))
    return (*certificate, "--tls-ca-cert-file", str(authority.file), "--tls-auth-clients", "yes")


def _query(authority: Authority, mine: Files) -> str:
    files = {
        "ssl_ca_certs": authority.file,
        "ssl_certfile": mine.certificate,
        "ssl_keyfile": mine.key,
    }
    return "&".join(f"{name}={path}" for name, path in files.items())
