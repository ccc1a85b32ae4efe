"""deploy/compose/join-redis-cluster, on servers that are started as those of docker-compose.yml."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path

import pytest
import yaml
from decision_svc.store.connection import slot_key
from decision_svc.store.protocol import StoreError
from decision_svc.store.redis import RedisStore
from redis import Redis
from support.redis_cluster import free_ports
from support.redis_server import RedisServer, wait_until
from support.redis_store import record

ROOT = Path(__file__).resolve().parents[2]
JOIN = ROOT / "deploy/compose/join-redis-cluster"
LIMIT_S = 60.0
KEYS = [f"shop-{number}" for number in range(20)]


class Nodes:
    """Three servers by the options of the compose file, and how the script names them."""

    def __init__(self) -> None:
        document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        command = document["services"]["redis-1"]["command"][-1].replace(
            '"$$(hostname)"', "localhost"
        )
        ports = free_ports(6)
        self.buses = ports[3:]
        self.servers = [
            RedisServer(port=port, options=[*shlex.split(command)[2:], "--cluster-port", str(bus)])
            for port, bus in zip(ports[:3], self.buses, strict=True)
        ]

    def names(self, address: str) -> Sequence[str]:
        """What the script is given, with the servers at that address."""
        pairs = zip(self.servers, self.buses, strict=True)
        return [f"{address}:{server.port}@{bus}" for server, bus in pairs]

    def kept(self, address: str) -> Sequence[int]:
        """How many keys each of them has."""
        found = []
        for server in self.servers:
            with Redis(address, server.port) as client:
                found.append(int(client.dbsize()))
        return found

    def move(self, address: str) -> None:
        """Start them anew at another address, as containers are."""
        for server in self.servers:
            server.stop()
        for server in self.servers:
            # Others take for its address where it comes from.
            come_from = ("--bind-source-addr", address)
            server.options = (*server.options, "--bind", address, *come_from)
            server.start()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with ExitStack() as stack:
        nodes = Nodes()
        for server in nodes.servers:
            stack.callback(server.remove)
            server.start()
        yield nodes


@contextmanager
def joining(names: Sequence[str]) -> Iterator[None]:
    with subprocess.Popen([JOIN, *names], stdout=subprocess.DEVNULL) as program:
        try:
            yield
        finally:
            program.terminate()


def are_well(names: Sequence[str]) -> bool:
    return subprocess.run([JOIN, "--check", *names], check=False).returncode == 0


async def test_servers_become_one_cluster_and_find_each_other_at_other_addresses(
    nodes: Nodes,
) -> None:
    names = nodes.names("127.0.0.1")
    assert not are_well(names)
    with joining(names):
        wait_until(lambda: are_well(names), LIMIT_S)
    url = ",".join(f"127.0.0.1:{server.port}" for server in nodes.servers)
    async with aclosing(RedisStore.connect(f"redis+cluster://{url}", timeout_s=LIMIT_S)) as store:
        for key in KEYS:
            await store.save(key, {}, record(1))
        assert await store.revisions() == dict.fromkeys(KEYS, 1)
        policy = slot_key(KEYS[0], "policy")
        with pytest.raises(StoreError, match="redis at localhost:"):
            await store.connection.ask(policy, lambda redis: redis.incr(policy))
    kept = nodes.kept("127.0.0.1")
    assert all(kept)

    nodes.move("127.0.0.2")
    moved = nodes.names("127.0.0.2")
    with joining(moved):
        wait_until(lambda: are_well(moved), LIMIT_S)
    assert nodes.kept("127.0.0.2") == kept
