"""The heartbeats of one process, and its conclusions from the heartbeats of the others.

Both logs share this part: the one among members (``_core/quorum``) and the one that an engine orders (``_core/ordered``). The
logs themselves decide how heartbeats travel, and when the knowledge of a process is complete.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from .freshness import Moment
from .members import Heartbeat, MemberEvent, Members, MemberState
from .view import View

E = TypeVar("E")


class Speaker(Generic[E]):
    """The part of a log's state machine that speaks for one process and listens to the others.

    Args:
        view: the entries that this node knows. The speaker raises its floor and gives up forgotten cuts.
        own: the constant parts of the own heartbeat.
        majority: how many trusted clocks raise the floor. A log whose members come and go sets ``members.majority`` anew.

    Attributes:
        members: the other members, by their heartbeats.
        spoken: the running number of the newest own heartbeat.
        draining: whether the own heartbeats say ``draining``.
    """

    def __init__(self, view: View, own: Heartbeat, *, majority: int) -> None:
        self.view = view
        self.members = Members(own, majority=majority)
        self.spoken = 0
        self.draining = False
        self._events: list[E | MemberEvent] = []

    # The own heartbeats.

    def heartbeat(self, now: Moment, *, starting: bool) -> Heartbeat:
        """Return the next own heartbeat.

        Args:
            now: the time on both clocks.
            starting: whether the process has yet to learn enough to validate sessions.
        """
        self.spoken += 1
        own = self.members.own
        state: MemberState = "draining" if self.draining else "starting" if starting else "ready"
        return Heartbeat(
            own.member,
            own.life,
            own.url,
            state,
            self.spoken,
            int(now.wall_ms),
            own.kids,
            own.freshness_limit_s,
            own.absolute_ms,
            own.release,
            own.weight,
            own.protocol,
        )

    # The others' heartbeats.

    def hear(self, slot: str, heartbeat: Heartbeat, now: Moment, *, late: bool = False) -> None:
        """Take in the heartbeat of another process; see :meth:`.Members.heard`."""
        self._add(self.members.heard(slot, heartbeat, now.boot_s, late=late))

    def take_leave(self, slot: str, life: str) -> None:
        """Take in the good-bye of another process; see :meth:`.Members.said_good_bye`."""
        self._add(self.members.said_good_bye(slot, life))

    def remove(self, slot: str) -> None:
        """Take a process out that left the cluster."""
        self._add(self.members.left(slot))

    def tick(self, now: Moment) -> int | None:
        """Return the time up to which tokens have expired on every trusted clock; None if too few clocks agree.

        Members that were silent for longer than any lease lasts are taken out.
        """
        self._events += self.members.tick(now)
        return self.members.floor_ms(now)

    # The view.

    def raise_floor(self, floor_ms: int) -> bool:
        """Raise the view's floor; return whether that was news. The caller then drops ended entries, too."""
        if floor_ms <= self.view.floor_ms:
            return False
        self.view.raise_floor(floor_ms)
        return True

    def give_up_cuts(self, made_before_ms: float) -> None:
        """Let tokens pass that list an unknown cut, if that cut was made before this time: no log contains it any more."""
        end_ms = made_before_ms + self.members.own.absolute_ms
        self.view.forgotten_cuts_end_ms = max(self.view.forgotten_cuts_end_ms, end_ms)

    # Readiness.

    def is_fresh(self, now: Moment) -> bool:
        """Return whether the knowledge of this process is recent enough to accept sessions."""
        return now.boot_s - self.view.fresh_at <= self.members.acceptance_limit_s

    def is_ready(self, now: Moment) -> bool:
        """Return whether this process can validate sessions: it is fresh, and its clock and limits are the cluster's."""
        return self.is_fresh(now) and not self.draining and not self.members.limits_differ and self.members.clock_trusted(now)

    # Events.

    def note(self, event: E) -> None:
        """Add an event, to be taken by :meth:`take_events`."""
        self._events.append(event)

    def _add(self, event: MemberEvent | None) -> None:
        if event is not None:
            self._events.append(event)

    def take_events(self) -> list[E | MemberEvent]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events
