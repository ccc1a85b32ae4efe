"""A real Redis Cluster for tests: three masters on the loopback interface, ended by their pids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from redis import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError

from support.redis_server import RedisServer, free_port, wait_until

MASTERS = 3
# A master waits two seconds after its start before it takes writes.
_JOIN_S = 90.0


class RedisCluster:
    """Masters that share the slots evenly, in the order of ``servers``; nobody has a replica."""

    def __init__(self, servers: Sequence[RedisServer], buses: Sequence[int]) -> None:
        self.servers, self._buses = servers, buses

    @property
    def url(self) -> str:
        """For a decision service, which is told of one server only and finds the others."""
        return f"redis+cluster://127.0.0.1:{self.servers[0].port}"

    @property
    def url_of_all(self) -> str:
        """The same, for one that may be started while the first server is gone."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{s.port}" for s in self.servers)

    def keeper(self, key: str) -> RedisServer:
        """The server that is given the key's slot at the beginning."""
        return self.servers[key_slot(key.encode()) * MASTERS // REDIS_CLUSTER_HASH_SLOTS]

    def create(self) -> None:
        """Give each running server its slots, make them known to each other, wait until all is
        well.
        """
        # The first slot of each keeper, as ``keeper`` has it.
        slots = [-(-at * REDIS_CLUSTER_HASH_SLOTS // MASTERS) for at in range(MASTERS + 1)]
        for at, server in enumerate(self.servers):
            with Redis.from_url(server.url) as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", at + 1)
                client.execute_command("CLUSTER ADDSLOTSRANGE", slots[at], slots[at + 1] - 1)
                for other, bus in zip(self.servers[:at], self._buses, strict=False):
                    client.execute_command("CLUSTER MEET", "127.0.0.1", other.port, bus)
        self.wait()

    def wait(self) -> None:
        """Wait until every server takes writes and knows all slots."""
        for server in self.servers:
            wait_until(partial(_is_well, server), _JOIN_S)

    @contextmanager
    def replica(self, key: str) -> Iterator[RedisServer]:
        """One more server, which has a copy of what the key's keeper has."""
        port, bus = free_ports(2)
        server = RedisServer(port=port, options=_clustered(bus))
        try:
            server.start()
            with Redis.from_url(server.url) as client:
                # By each of them, for gossip takes seconds.
                for known, its_bus in zip(self.servers, self._buses, strict=True):
                    client.execute_command("CLUSTER MEET", "127.0.0.1", known.port, its_bus)
                wait_until(partial(_is_known, server, self.servers), _JOIN_S)
                with Redis.from_url(self.keeper(key).url) as keeper:
                    name = keeper.execute_command("CLUSTER MYID")
                client.execute_command("CLUSTER REPLICATE", name)
                wait_until(lambda: client.info("replication")["role"] == "slave", _JOIN_S)
                wait_until(
                    lambda: client.info("replication")["master_link_status"] == "up", _JOIN_S
                )
            yield server
        finally:
            server.remove()

    def empty(self) -> None:
        """Forget everything that is kept."""
        for server in self.servers:
            with Redis.from_url(server.url) as client:
                client.flushall()


@contextmanager
def running_cluster(
    *options: str, appendonly: bool = False, tls: bool = False
) -> Iterator[RedisCluster]:
    """A cluster that runs, and is gone with its directories afterwards; with ``tls``, whose
    files are among the ``options``, its ports take nothing else.
    """
    ports = free_ports(2 * MASTERS)
    with ExitStack() as stack:
        servers = []
        for port, bus in zip(ports[:MASTERS], ports[MASTERS:], strict=True):
            secured = ("--port", "0", "--tls-port", str(port)) if tls else ()
            clustered = (*_clustered(bus), *options, *secured)
            server = RedisServer(port=port, appendonly=appendonly, options=clustered)
            stack.callback(server.remove)
            server.start()
            servers.append(server)
        cluster = RedisCluster(servers, ports[MASTERS:])
        cluster.create()
        yield cluster


def _clustered(bus: int) -> Sequence[str]:
    # Servers that are frozen, or starved by a busy machine, are not given up by the others.
    patient = ("--cluster-node-timeout", "60000")
    return ("--cluster-enabled", "yes", "--cluster-port", str(bus), *patient)


def free_ports(count: int) -> list[int]:
    """As many loopback ports, see ``free_port``."""
    return [free_port() for _ in range(count)]


def _is_known(newcomer: RedisServer, by: Sequence[RedisServer]) -> bool:
    for server in by:
        with Redis.from_url(server.url) as client:
            nodes = client.execute_command("CLUSTER NODES")
        found = nodes.get(f"127.0.0.1:{newcomer.port}")
        if found is None or "handshake" in found["flags"]:
            return False
    return True


def _is_well(server: RedisServer) -> bool:
    try:
        with Redis.from_url(server.url) as client:
            info = client.execute_command("CLUSTER INFO")
    except RedisError:
        return False
    found = {str(name): str(value) for name, value in info.items()}
    return (found["cluster_state"], found["cluster_slots_ok"], found["cluster_known_nodes"]) == (
        "ok",
        str(REDIS_CLUSTER_HASH_SLOTS),
        str(MASTERS),
    )
