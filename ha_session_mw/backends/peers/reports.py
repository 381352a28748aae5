"""Reports the other members to operators and listeners: one line for each change, in words that show no address."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..._core.calls.faults import PeerFaults
from ..._core.quorum.log import Quorum
from ..._core.quorum.messages import Mismatch
from ..._core.quorum.ready import Contradiction, ListsChanged, OldFile, PeerMismatch, QuorumEvent, Recovered
from ...abc import Clock, OnEvent
from ...events import FoundQuorum, LostQuorum, MemberDraining, MemberJoined, MemberLeft, MemberMismatched, PossibleLoss, StartedAnew
from ..common.membered import tell_member
from ..common.trouble import Troubles
from .batch_file import FILE
from .list_texts import TOLD
from .mismatch_texts import why_apart
from .pacing import JoinReports


class Reports:
    """Reports the events of one node's log.

    Args:
        urls: the members, in the order of ``HA_SESSION_PEERS``.
        coming: the members of the next list, in the order of ``HA_SESSION_PEERS_NEXT``.
        quorum: the state machine.
        faults: counts the faults of the others.
        clock: dates the joins.
        logger: takes the lines.
        on_event: takes the events that concern the cluster.
    """

    def __init__(
        self,
        urls: Sequence[str],
        coming: Sequence[str],
        quorum: Quorum,
        *,
        faults: PeerFaults,
        clock: Clock,
        logger: logging.Logger,
        on_event: OnEvent,
    ) -> None:
        self._urls = list(urls)
        self._coming = list(coming)
        self._everybody = list(dict.fromkeys([*urls, *coming]))
        self._quorum = quorum
        self._faults = faults
        self._clock = clock
        self._logger = logger
        self._on_event = on_event
        self._troubles = Troubles(logger)
        self._joins = JoinReports(logger)

    def name(self, url: str) -> str:
        """Return a name for a member that does not show its address."""
        if url in self._urls:
            return f"member {self._urls.index(url) + 1} of HA_SESSION_PEERS"
        return f"member {self._coming.index(url) + 1} of HA_SESSION_PEERS_NEXT"

    # Members that do not answer.

    def poll_ended(self, peer: str, failure: str | None) -> None:
        """Take in why a member did not answer; None if it did."""
        if failure is None:
            self._troubles.end(peer, "%s answers again", self.name(peer))
        else:
            self._troubles.begin(peer, failure, "%s: %s", self.name(peer), failure)

    def troubles_of(self, peers: Sequence[str]) -> str:
        """Return the present troubles of these members, to be appended to a sentence; empty if there are none."""
        told = [f"{self.name(url)} {self._troubles.current[url]}" for url in peers if url in self._troubles.current]
        return ": " + "; ".join(told) if told else ""

    # Members that this node cannot work with.

    def mismatches(self) -> tuple[str, ...]:
        """Return a sentence for each of them."""
        return tuple(self._why_apart(url, why) for url, why in self._quorum.mismatched.items())

    def _why_apart(self, url: str, why: Mismatch) -> str:
        return why_apart(self.name(url), why, self._quorum.peers[url].spoken.heard, self._quorum.members.own)

    # Events.

    def report(self, event: QuorumEvent) -> None:
        """Log an event, count the fault that it stands for, and pass it on."""
        self._log(event)
        if isinstance(event, Contradiction) or (isinstance(event, PeerMismatch) and event.why == "identity"):
            self._faults.note(event.peer, "lied")
        self._pass_on(event)

    def _log(self, event: QuorumEvent) -> None:
        match event:
            case PossibleLoss():
                self._logger.error("a majority of the members forgot their entries at once; acknowledged log-outs may be lost")
            case OldFile(peer):
                self._logger.error("%s is older than what %s remembers of it; learning anew", FILE, self.name(peer))
            case PeerMismatch(peer, why):
                self._logger.log(logging.INFO if why == "change" else logging.ERROR, "%s", self._why_apart(peer, why))
            case ListsChanged(phase):
                self._logger.log(logging.ERROR if phase == "retired" else logging.WARNING, "%s", TOLD[phase])
            case Recovered():
                self._logger.info("this node has learned all that it may have forgotten, and validates sessions now")
            case MemberJoined(member):
                self._joins.report(member, self._clock.boot_s())
            case MemberLeft() | MemberDraining():
                tell_member(self._logger, event)
            case FoundQuorum():
                self._logger.info("a majority of the members hears this node")
            case LostQuorum():
                self._logger.warning("no majority of the members hears this node; log-outs are provisional or refused until one does")

    def _pass_on(self, event: QuorumEvent) -> None:
        match event:
            case PeerMismatch(peer, why):
                if why != "change":
                    self._on_event(MemberMismatched(self._everybody.index(peer) + 1, why))
            case OldFile():
                self._on_event(StartedAnew())
            case Recovered() | Contradiction() | ListsChanged():
                pass  # the node reports that it is fresh, and ``status()`` counts the peer's faults
            case _:
                self._on_event(event)
