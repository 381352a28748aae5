"""Processes of the demo on loopback: started, waited for, and ended whatever happens."""

from __future__ import annotations

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

READY_WITHIN_S = 30.0
"""A start takes half a second; a busy machine may take many times that."""
END_WITHIN_S = 5.0
_POLL_S = 0.02


class ServerError(Exception):
    """A server did not start. Carries the end of what it printed."""


class Process(ABC):
    """A server as a process of its own. It may be ended, frozen and started again.

    Args:
        name: what it is called in the story.
        output: a file for what it prints.
    """

    def __init__(self, name: str, output: Path) -> None:
        self.name = name
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start it, and do not wait for it."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Ask it whether it can do its work."""

    @property
    def pid(self) -> int | None:
        """The running process; None where there is none."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def wait_until_ready(self) -> None:
        """Return when it says that it can do its work.

        Raises:
            ServerError: it ended, or did not become ready in time.
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
        """End the process as a crash does: it can do nothing more, not even say so."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop the process in the middle of whatever it does. Its connections stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on, as if nothing had happened."""
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask the process to end, frozen or not, and do not wait for it."""
        self._signal(signal.SIGTERM)
        self.thaw()

    def end(self) -> None:
        """Return when the process has ended, by itself or not."""
        if self._process is None:
            return
        self.terminate()
        try:
            self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def output(self) -> str:
        """The end of what the process printed."""
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
    """Start these side by side, and end them all afterwards."""
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
