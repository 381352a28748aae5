"""Find the workers of the same server that started with this process, accept connections on its port, and are not ready yet. Needs Linux.

A probe reaches one worker of a port, and the next request another one. So each worker that is ready claims a name with its process
id. The name is an abstract Unix socket: it needs no file and ends with its process. The look for workers goes through the children of
this process's parent, by the listening socket that both have.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .siblings import listening

TOGETHER_S = 5.0
"""Workers that start within this time start together. A worker that replaces another one later does not take the port out of service."""
GIVE_UP_S = 60.0
"""How long after the first look a worker that is not ready is waited for. One that hangs must not keep the others out of service."""
_CREDENTIALS = struct.Struct("3i")


class PortMates:
    """The other workers behind the port of this process."""

    def __init__(self) -> None:
        self._claim: socket.socket | None = None
        self._ready: set[int] = set()
        self._first_look_s: float | None = None

    def claim_ready(self) -> None:
        """Tell the others that this process is ready."""
        if sys.platform != "linux":
            return
        self.close()
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(_name_of(os.getpid()))
            claim.listen(64)
        except OSError:  # no permission, say: the others give up after a while
            claim.close()
        else:
            self._claim = claim

    def close(self) -> None:
        """Take the claim back."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def are_ready(self, now_s: float) -> bool:
        """Return whether all workers are ready that started with this process.

        Args:
            now_s: the boot-time clock.
        """
        if sys.platform != "linux":
            return True
        if self._first_look_s is None:
            self._first_look_s = now_s
        if now_s - self._first_look_s > GIVE_UP_S:
            return True
        with suppress(OSError, ValueError, IndexError):
            waited_for = {*self._waited_for()} - self._ready
            self._ready |= {pid for pid in waited_for if _has_claimed(pid)}
            return waited_for <= self._ready
        return True

    def _waited_for(self) -> Iterator[int]:
        me, parent = os.getpid(), os.getppid()
        sockets = {f"socket:[{os.fstat(file).st_ino}]" for file in listening().values()}
        latest_s = _started_s(me) + TOGETHER_S
        for word in Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split():
            pid = int(word)
            with suppress(OSError, ValueError, IndexError):  # it has just ended
                if pid != me and _started_s(pid) <= latest_s and not sockets.isdisjoint(_files_of(pid)):
                    yield pid


def is_inherited(file: int) -> bool:
    """Return whether the parent of this process has an open socket, too, as a server has that starts workers."""
    if sys.platform == "linux":
        with suppress(OSError):  # there is no parent, or one of another user, which this process did not fork from
            return f"socket:[{os.fstat(file).st_ino}]" in _files_of(os.getppid())
    workers = sys.modules.get("multiprocessing")  # a server without workers does not load it
    return workers is not None and workers.parent_process() is not None


def _started_s(pid: int) -> float:
    """Return when a process started, in seconds since the machine did (proc(5), field 22)."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _files_of(pid: int) -> Iterator[str]:
    for name in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            yield str(name.readlink())


def _name_of(pid: int) -> bytes:
    return b"\0" + f"ha-session-ready/{pid}".encode()


def _has_claimed(pid: int) -> bool:
    """Return whether the very process has claimed to be ready, and nobody in its name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(0)
        try:
            caller.connect(_name_of(pid))
        except BlockingIOError:
            return True  # its queue is full of such callers
        except OSError:
            return False
        owner, _, _ = _CREDENTIALS.unpack(caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(owner == pid)
