"""The port of calls between nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from .._core.calls.faults import Fault, PeerFaults

PeerHandler = Callable[[bytes], Awaitable[bytes]]
"""Takes the body of another member's call and returns the body of the answer. Raises ValueError if it cannot read the body."""


class PeerFailure(Exception):
    """A call had no usable answer. ``str()`` gives the reason in this package's words, never in the peer's.

    Attributes:
        fault: the name under which the failure is counted.
    """

    def __init__(self, reason: str, fault: Fault = "refused") -> None:
        super().__init__(reason)
        self.fault: Fault = fault


HELLO = "hello"
"""The name of the call that asks a process for its nonce. A node calls only its own URL by it, to find a second process there."""


class PeerCalls(Protocol):
    """Signed calls between the nodes of a cluster."""

    @property
    def faults(self) -> PeerFaults:
        """The counts of the faults of other members."""
        ...

    async def call(self, peer: str, name: str, body: bytes, timeout_s: float) -> bytes:
        """Return the body of a peer's answer.

        Args:
            peer: the URL of the member.
            name: of the call.
            body: of the call.
            timeout_s: the longest wait.

        Raises:
            PeerFailure: the peer did not answer in time, or not as a member of this cluster does.
        """
        ...

    def handle(self, name: str, handler: PeerHandler) -> None:
        """Have calls of this name answered by a handler."""
        ...
