"""Servers as processes of their own that start at once: each is forked from one process that has imported what they all need.

A new interpreter would spend most of a start on imports, half a second of a core, and the tests start over a hundred servers.
Tests that are about a new interpreter start one with ``subprocess``.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen  # also where a demo's servers are to start warm
from typing import IO, Any, Protocol

ROOT = Path(__file__).parent.parent
IMPORTED = [
    *("uvicorn.main", "uvicorn.lifespan.on", "uvicorn.loops.auto", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto"),
    *("gunicorn.app.wsgiapp", "uvicorn_worker", "starlette.applications", "ha_session_mw.testing", "ha_session_mw._node.node"),
    *("ha_session_mw.backends.memory.log", "ha_session_mw.backends.peers.log", "ha_session_mw.backends.sqlite.log"),
    *("ha_session_mw.backends.etcd.log", "ha_session_mw.backends.etcd.store", "ha_session_mw.backends.etcd.locks"),
]
"""What most servers import in the end."""
_HIGH_FD = 500
"""Above what a test has open: descriptors wait there until each has the number that the server was promised."""
_MOST_FDS = 16


class Running(Protocol):
    """What tests use of :class:`subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def start(
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    stdout: IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    start_new_session: bool = False,
) -> Running:
    """Run ``python -m module arguments`` in a process of its own.

    Args:
        env: its whole environment. What an interpreter reads only when it starts has no effect, but for ``PYTHONPATH``.
        stdout: receives its output, errors too; by default the tests' own output does.
    """
    if not hasattr(os, "pidfd_open"):
        command = [sys.executable, "-m", module, *arguments]
        return Popen(command, env=env, stdout=stdout, stderr=stdout, pass_fds=pass_fds, cwd=cwd, start_new_session=start_new_session)
    out, err = (1, 2) if stdout is None else (stdout.fileno(),) * 2
    order = {"argv": [module, *arguments], "env": {**env}, "cwd": str(cwd or Path.cwd()), "own_session": start_new_session}
    return _parent().forked(order, {1: out, 2: err} | {fd: fd for fd in pass_fds})


def popen(command: Sequence[str], **options: Any) -> Running:
    """Run a command as ``subprocess.Popen`` does, and start it warm where it is a module of this Python."""
    if list(command[:2]) != [sys.executable, "-m"]:
        return Popen(command, **options)
    own_session = options.get("start_new_session", False)
    return start(*command[2:], env=options["env"], stdout=options["stdout"], cwd=options["cwd"], start_new_session=own_session)


class _Forked:
    """A process that another one has forked and waits for, which tells us its end."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self.returncode: int | None = None
        self.pid = int(told.recv(64))

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(int(self._told.recv(64)))
            self._told.close()
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Parent:
    """The process that forks, as the tests see it."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            environ = {name: value for name, value in os.environ.items() if not name.startswith("HA_SESSION_")} | {"PYTHONPATH": path}
            command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
            self._process = Popen(command, env=environ, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._lock = threading.Lock()
        atexit.register(self.end)

    def forked(self, order: dict[str, Any], fds: dict[int, int]) -> _Forked:
        told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            order["fds"] = [*fds]
            body = json.dumps(order).encode()
            self._orders.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, max(4 * len(body), 1 << 18))
            socket.send_fds(self._orders, [body], [theirs.fileno(), *fds.values()])
        return _Forked(told)

    def end(self) -> None:
        """End it, and what it has forked and nobody has ended."""
        self._orders.close()
        self._process.wait()


@functools.cache
def _parent() -> _Parent:
    return _Parent()


def main() -> None:
    """Fork a process for each order, until the tests have ended. In a forked process, do what was ordered."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    order = _forks_and_waits(socket.socket(fileno=int(sys.argv[1])))
    if order is not None:
        sys.argv = order["argv"]
        sys.path[:] = [order["cwd"], *order["env"].get("PYTHONPATH", "").split(os.pathsep), *sys.path[1:]]
        runpy.run_module(order["argv"][0], run_name="__main__", alter_sys=True)


def _forks_and_waits(orders: socket.socket) -> dict[str, Any] | None:
    """Return an order in the process that was forked for it, and nothing when the tests have ended."""
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready in select.select([orders.fileno(), *running], [], [])[0]:
            if ready != orders.fileno():
                pid, told = running.pop(ready)
                os.close(ready)
                _, status = os.waitpid(pid, 0)
                with told, suppress(BrokenPipeError):  # nobody wants to know
                    told.send(b"%d" % status)
                continue
            body, fds, *_ = socket.recv_fds(orders, 1 << 20, _MOST_FDS)
            if not body:
                for pid, _told in running.values():
                    os.kill(pid, signal.SIGKILL)
                return None
            order = json.loads(body)
            if (pid := os.fork()) == 0:
                for open_here in (orders, *(told for _, told in running.values())):
                    open_here.detach()  # else they would be closed later on, when other files have their numbers
                _become(order, fds[1:])
                return dict(order)
            told = socket.socket(fileno=fds[0])
            for fd in fds[1:]:
                os.close(fd)
            running[os.pidfd_open(pid)] = pid, told
            told.send(b"%d" % pid)


def _become(order: dict[str, Any], fds: list[int]) -> None:
    """Give the forked process the environment, the descriptors and the folder that it is to have."""
    if order["own_session"]:
        os.setsid()
    waiting = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH_FD) for number, fd in zip(order["fds"], fds, strict=True)}
    os.closerange(3, _HIGH_FD)
    for number, fd in waiting.items():
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])


if __name__ == "__main__":
    main()
