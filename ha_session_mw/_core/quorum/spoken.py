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

    __slots__ = ("_earlier", "_own", "heard", "version")

    def __init__(self, own: Versions) -> None:
        self._own = own
        self._earlier = ""
        self.heard: Heartbeat | None = None
        self.version = own.lowest

    def hear(self, heartbeat: Heartbeat) -> None:
        """Take in a heartbeat of the other. One of a process that has another one in its place is late, and says nothing."""
        if self.heard is not None:
            if heartbeat.life in (self.heard.life, self._earlier):
                return
            self._earlier = self.heard.life
        self.heard = heartbeat
        self.version = version_for(self._own, heartbeat)
