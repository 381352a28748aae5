"""The version of the protocol in which one node writes to another."""

from __future__ import annotations

from ...version import Versions
from ..cluster.members import Heartbeat, version_for


class Spoken:
    """The version to write to one other node in: the highest that both read, as far as this node knows.

    It belongs to a process of the other. The next one may be of an earlier release, so the version may fall.

    Args:
        own: the versions that this node reads.

    Attributes:
        version: the version. Until the other one is heard it is the lowest: of two neighbouring releases, both read that of the older one.
        heard: the newest heartbeat of the process that it belongs to; None before the first one.
    """

    __slots__ = ("_lives", "_own", "heard", "version")

    def __init__(self, own: Versions) -> None:
        self._own = own
        self._lives = ("", "")
        """Its process, and the one before."""
        self.heard: Heartbeat | None = None
        self.version = own.lowest

    def hear(self, heartbeat: Heartbeat) -> None:
        """Take in a heartbeat of the other. One of a process that has another one in its place is late, and says nothing."""
        if heartbeat.life in self._lives:
            return
        self._lives = heartbeat.life, self._lives[0]
        self.heard = heartbeat
        self.version = version_for(self._own, heartbeat)
