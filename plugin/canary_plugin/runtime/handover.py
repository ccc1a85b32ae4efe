"""An upgrade without a gap: one worker hands Kong's connections and instances to the next.

Kong may send the steps of an event over any connection of its pool, so two workers must never
serve that pool side by side. The old worker therefore holds back what would start something new,
lets the events in progress end, and then hands over everything at once: each connection as a file
descriptor with the call that was held on it, each instance with its id. Kong sees a pause of some
milliseconds and nothing else.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import msgpack

if TYPE_CHECKING:
    from canary_plugin.runtime.instances import Instances
    from canary_plugin.runtime.server import PluginServer

# What the supervisor says to a worker, with a file descriptor; what a successor says to it.
LISTEN, GIVE = b"L", b"G"
_INSTANCE, _CONNECTION, _END = b"i", b"c", b"e"
_HEADER = struct.Struct("!cI")
_FD_BYTES = array.array("i").itemsize
# Longest that the successor waits for a piece, and that the predecessor lets events go on.
TAKE_S, GIVE_S = 5.0, 2.0


async def give(channel: socket.socket, server: PluginServer, instances: Instances) -> None:
    """Hand everything over. Afterwards this worker serves nobody. Raises OSError."""
    server.hold()
    await server.quiet(GIVE_S)
    # From here to the end the loop does not turn, so nothing arrives in between.
    channel.settimeout(TAKE_S)
    for instance in instances.described():
        _send(channel, _INSTANCE, msgpack.packb(instance))
    for fd, held in server.released():
        with socket.socket(fileno=fd) as connection:
            _send(channel, _CONNECTION, held, connection.fileno())
    _send(channel, _END, b"")


async def take(channel: socket.socket, server: PluginServer, instances: Instances) -> None:
    """Ask the predecessor for everything and go on with it; what it has if it breaks off."""
    channel.settimeout(TAKE_S)
    taken: list[tuple[socket.socket, bytes]] = []
    with contextlib.suppress(OSError, EOFError):
        channel.send(GIVE)
        while True:
            kind, data, fds = await asyncio.to_thread(_receive, channel)
            if kind == _INSTANCE:
                instances.adopt(*msgpack.unpackb(data))
            elif kind == _CONNECTION:
                taken.append((socket.socket(fileno=fds[0]), data))
            else:
                break
    for connection, held in taken:
        await server.adopt(connection, held)


def _send(channel: socket.socket, kind: bytes, data: bytes, *fds: int) -> None:
    header = _HEADER.pack(kind, len(data))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    channel.sendmsg([header], rights)
    channel.sendall(data)


def _receive(channel: socket.socket) -> tuple[bytes, bytes, array.array[int]]:
    header, rights, _, _ = channel.recvmsg(_HEADER.size, socket.CMSG_SPACE(_FD_BYTES))
    if len(header) < _HEADER.size:
        raise EOFError("the predecessor is gone")
    kind, size = _HEADER.unpack(header)
    fds = array.array("i")
    for _, _, data in rights:
        fds.frombytes(data)
    found = bytearray()
    while len(found) < size:
        more = channel.recv(size - len(found))
        if not more:
            raise EOFError("the predecessor is gone")
        found += more
    return kind, bytes(found), fds
