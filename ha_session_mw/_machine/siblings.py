"""Find other worker processes of the same server: siblings that accept connections on the same address. Needs Linux.

Each process claims a name for each address on which it listens. The name is an abstract Unix socket: it needs no file and ends with its
process. It belongs to one network namespace, as the address does. The name contains the parent's process
id. So neither a test that hands its socket to a server, nor that server, takes the other for a sibling.
"""

from __future__ import annotations

import atexit
import os
import socket
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path

from . import forks

SLOTS = (0, 1)
"""The names for one address. The holder of either looks for the holder of the other; further processes find both taken."""
MOST_SCANS = 60
"""Scans for a listening socket, about one a second. Servers listen soon after the app has started."""
MOST_FILES = 256
"""Open files that a scan looks at, the lowest numbers first: a server opens its listening sockets before any connection."""
_CREDENTIALS = struct.Struct("3i")


class _Name:
    """This process's name for one address, on which its open file of this number listens."""

    def __init__(self, address: str, file: int) -> None:
        self.address = address
        self._file = file
        self._text = f"ha-session/{os.getppid()}/{address}"
        self._held: socket.socket | None = None
        self._slot = -1

    def is_in_use(self) -> bool:
        """Whether the process still listens there. A later process may listen on the same address."""
        return _address_of(self._file) == self.address

    def is_shared(self) -> bool:
        if self._held is None:
            self._held, self._slot = _claim(self._text)
        else:
            _drain(self._held)
        return any(_is_held(self._text, other) for other in SLOTS if other != self._slot)

    def close(self) -> None:
        if self._held is not None:
            self._held.close()


class Siblings:
    """This process's names, and the look for siblings."""

    def __init__(self) -> None:
        self._names: list[_Name] = []
        self._scans = 0
        forks.watch(self)

    def before_fork(self) -> None:
        """Do nothing: the child gives the names up."""

    def after_fork(self, *, in_child: bool) -> None:
        """Give the names up in the child, which may serve nothing."""
        if in_child:
            self.close()

    def close(self) -> None:
        """Give the names up."""
        for name in self._names:
            name.close()
        self._names = []
        self._scans = 0

    def found(self) -> bool:
        """Return whether another process of the same parent and user accepts connections on an address of this process now."""
        if sys.platform != "linux":
            return False
        if not all(name.is_in_use() for name in self._names):
            self.close()
        if not self._names and self._scans < MOST_SCANS:
            self._scans += 1
            self._names = [_Name(address, file) for address, file in listening().items()]
        shared = [name.is_shared() for name in self._names]  # each claims its name
        return any(shared)


siblings = Siblings()
"""Those of this process: all its nodes share one server."""
atexit.register(siblings.close)


def listening() -> dict[str, int]:
    """Return the addresses on which this process listens, each with the number of its open file."""
    files = sorted(int(name.name) for name in Path("/proc/self/fd").iterdir())[:MOST_FILES]
    found = ((_address_of(file), file) for file in files)
    return {address: file for address, file in found if address is not None}


def _address_of(file: int) -> str | None:
    """Return the address on which an open file listens; None if it is no listening socket of a server."""
    with suppress(OSError):
        if stat.S_ISSOCK(os.fstat(file).st_mode):
            with socket.socket(fileno=os.dup(file)) as found:
                # An abstract address is bytes: no client connects to it.
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and not isinstance(found.getsockname(), bytes):
                    return repr(found.getsockname())
    return None


def _address(name: str, slot: int) -> bytes:
    return b"\0" + f"{slot}/{name}".encode()[:100]


def _claim(name: str) -> tuple[socket.socket | None, int]:
    for slot in SLOTS:
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            held.bind(_address(name, slot))
            held.listen()
            held.settimeout(0)
        except OSError:
            held.close()
        else:
            return held, slot
    return None, -1


def _is_held(name: str, slot: int) -> bool:
    """Return whether a process of this user holds a name. Another user's process does not count: it could only pretend."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(0)
        try:
            caller.connect(_address(name, slot))
        except BlockingIOError:
            return True  # its queue is full of such callers
        except OSError:
            return False
        _, user, _ = _CREDENTIALS.unpack(caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(user == os.getuid())


def _drain(held: socket.socket) -> None:
    """Take the callers from the queue."""
    with suppress(OSError):
        while True:
            held.accept()[0].close()
