"""The ports: what the manager asks of a clock and of the cluster's log. Each docstring is the whole contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .models import Entry, KeyId


class Clock(Protocol):
    """The two clocks. ``boot_s`` for what stays within a node, ``wall_s`` for what crosses nodes."""

    def boot_s(self) -> float:
        """Seconds since some moment, counting the time in suspend; never steps."""
        ...

    def wall_s(self) -> float:
        """Seconds since the epoch; may be off, and may step."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """Entries that a log has made durable.

    Attributes:
        position: where the log stands after them; grows with each append on the same node.
        durable_at_s: the boot-time moment at which this node knew them durable.
    """

    position: int
    durable_at_s: float


class ClusterLog(ABC):
    """Keeps the entries of the cluster and brings them to every node's view."""

    @abstractmethod
    async def append(self, entries: Sequence[Entry]) -> Receipt:
        """Make entries known to the cluster.

        They are merged into this node's view before the first suspension, whatever happens then, and merging is
        idempotent: the same entries may be appended again. Returns once they are durable.

        Raises:
            QuorumLost: they could not be made durable in time. The view keeps them.
        """

    @abstractmethod
    async def fence(self, receipt: Receipt) -> None:
        """Return when every node refuses, from now on, what the entries deny.

        That is when each live member has confirmed them, or when none can still hold a lease from before. Always
        returns in bounded time.
        """

    @abstractmethod
    def refresh(self) -> None:
        """Bring the view up to what this log can tell without waiting. Called where time may have passed; never raises."""

    @abstractmethod
    def announced_kids(self) -> Sequence[frozenset[KeyId]]:
        """For each other live member, the ids of the keys it has."""

    @abstractmethod
    def why_not_ready(self) -> str | None:
        """What keeps this node from judging sessions, as a few words for an operator; None when it is ready."""
