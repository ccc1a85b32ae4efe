"""Kong's socket: bound here, or handed over by systemd, which is also told how things are."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

BACKLOG = 4_096
# Of our environment; none of a worker's business.
SYSTEMD = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET")
_FIRST_SYSTEMD_FD = 3


def is_inherited(environment: Mapping[str, str]) -> bool:
    """Whether systemd hands over a listening socket."""
    is_for_us = environment.get("LISTEN_PID") == str(os.getpid())
    return is_for_us and environment.get("LISTEN_FDS", "0") != "0"


def inherited() -> tuple[socket.socket, str]:
    """The socket that systemd hands over, and its path."""
    listener = socket.socket(fileno=_FIRST_SYSTEMD_FD)
    listener.set_inheritable(False)
    return listener, str(listener.getsockname())


def bind(path: str, mode: int) -> socket.socket:
    """Listen at ``path``, in place of whatever socket is there, without a moment's gap."""
    target = Path(path)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(fresh))
    fresh.chmod(mode)
    listener.listen(BACKLOG)
    fresh.rename(target)
    return listener


def notify(state: str) -> None:
    """Tell systemd, if it wants to know."""
    where = os.environ.get("NOTIFY_SOCKET", "")
    if where:
        address = "\0" + where[1:] if where[0] == "@" else where
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out, contextlib.suppress(OSError):
            out.sendto(state.encode(), address)


def inode(path: str) -> int:
    """What tells our socket from one that another server put in its place; 0 if it is gone."""
    with contextlib.suppress(FileNotFoundError):
        found = Path(path).stat()
        return found.st_ino if stat.S_ISSOCK(found.st_mode) else 0
    return 0
