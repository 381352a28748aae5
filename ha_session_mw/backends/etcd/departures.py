"""Members that fall silent while this process reads nothing of anybody: etcd is what is gone, so nobody is said to have left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..._core.ordered.log import Ordered
from ..._core.ordered.ready import OrderedEvent
from ...events import MemberJoined, MemberLeft


class Departures:
    """Holds back the events of members that left, for as long as that may be etcd's fault.

    Args:
        ordered: the state machine, which knows when this process last read the log.
    """

    def __init__(self, ordered: Ordered) -> None:
        self._ordered = ordered
        self._held: dict[str, MemberLeft] = {}
        self._blind_s = 0.0

    def sifted(self, events: Iterable[OrderedEvent], now_s: float) -> Iterator[OrderedEvent]:
        """Yield the events to tell now. A member that is heard again, once the log is read again, neither left nor joined.

        Args:
            events: the newest events.
            now_s: the boot-time clock.
        """
        members = self._ordered.members
        # Half of the limit: a member is silent no earlier than a whole limit after the last write that was read.
        if now_s - self._ordered.own_beats.fresh_s > members.acceptance_limit_s / 2:
            self._blind_s = now_s
        for event in events:
            match event:
                case MemberLeft(member) if self._blind_s == now_s:
                    self._held[member] = event
                case MemberJoined(member) if self._held.pop(member, None) is not None:
                    pass
                case _:
                    yield event
        if self._held and now_s - self._blind_s > members.fence_wait_s:
            yield from self._held.values()
            self._held.clear()
