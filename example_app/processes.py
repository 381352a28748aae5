"""Server processes of the demo: start them, wait until they are ready, and end them whatever happens."""

from __future__ import annotations

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

READY_WITHIN_S = 60.0
"""Longest wait for a server. A start takes half a second on an idle machine, and many times that on a busy one."""
END_WITHIN_S = 5.0
"""How long a server may take to end by itself. uvicorn waits one second for open requests."""
_POLL_S = 0.02


class ServerError(Exception):
    """A server did not start. The message ends with the server's last output."""


class Process(ABC):
    """A server process that can be killed, frozen and started again.

    Args:
        name: the server's name in the story.
        output: the file that receives the server's output.
    """

    def __init__(self, name: str, output: Path) -> None:
        self.name = name
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start the process and return at once."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether the server can do its work."""

    @property
    def pid(self) -> int | None:
        """The id of the running process, or None."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def wait_until_ready(self) -> None:
        """Return when the server is ready.

        Raises:
            ServerError: the process ended, or was not ready in time.
        """
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if self.pid is None:
                raise ServerError(f"{self.name} ended before it was ready:\n{self.output()}")
            if self.is_ready():
                return
            time.sleep(_POLL_S)
        raise ServerError(f"{self.name} was not ready after {READY_WITHIN_S:g} s:\n{self.output()}")

    def kill(self) -> None:
        """End the process without notice, as a crash does."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop the process. Its connections stay open, and no request is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process continue."""
        self._signal(signal.SIGCONT)

    def heal(self) -> None:
        """Let a frozen process continue, and start one that has ended."""
        self.thaw()
        if self.pid is None:
            self.start()

    def terminate(self) -> None:
        """Ask the process to end, even if it is frozen, and return at once."""
        self._signal(signal.SIGTERM)
        self.thaw()

    def end(self, within_s: float = END_WITHIN_S) -> None:
        """End the process: ask first, and kill if that takes longer."""
        if self._process is None:
            return
        self.terminate()
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def output(self) -> str:
        """Return the last output of the process."""
        return self._output.read_text(errors="replace")[-4000:] if self._output.exists() else ""

    def _run(self, command: Sequence[str], environment: Mapping[str, str], *, own_session: bool = False) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=own_session,
            )

    def _signal(self, number: signal.Signals) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)


@contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Start processes side by side, wait until all are ready, and end them all afterwards."""
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.wait_until_ready()
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.end()
