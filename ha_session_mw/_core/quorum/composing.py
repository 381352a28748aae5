"""Composes the messages of one node: its polls, and its answers with a page of its sequence. Changes no more than their running number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from ...models import Entry
from ..cluster.freshness import Moment
from ..cluster.members import Heartbeat
from ..cluster.view import View
from .ages import Ages
from .amnesia import Amnesia
from .durability import DurablePrefix
from .membership import Membership
from .messages import Answer, Poll
from .peer import Peer
from .provenance import Provenance
from .ready import Hold
from .sequence import Sequence


class _Page(NamedTuple):
    """Entries of the sequence, and the position that they reach."""

    reached: int
    entries: tuple[Entry, ...]
    ids: str = ""
    ends: tuple[int, ...] = ()


class Composer:
    """Writes what one node tells the others.

    Args:
        membership: the lists of the node.
        view: what it knows.
        sequence: its entries in the order in which the others read them.
        durable: how far it keeps them. It tells of no others.
        amnesia: says how much it may have forgotten.
        provenance: whose entries it has.
        peers: the nodes that it answers, by their URL.

    Attributes:
        stamp: the running number of the newest answer.
        ages: how old the entries are.
    """

    __slots__ = (
        "_amnesia",
        "_durable",
        "_membership",
        "_next",
        "_peers",
        "_prepared",
        "_provenance",
        "_sequence",
        "_view",
        "ages",
        "stamp",
    )

    def __init__(
        self,
        membership: Membership,
        view: View,
        sequence: Sequence,
        durable: DurablePrefix,
        amnesia: Amnesia,
        provenance: Provenance,
        peers: Mapping[str, Peer],
    ) -> None:
        self._membership = membership
        self._view = view
        self._sequence = sequence
        self._durable = durable
        self._amnesia = amnesia
        self._provenance = provenance
        self._peers = peers
        self._next: tuple[int, int, bool] | None = None
        """After which position the page begins that follows the newest one, how many entries it has at most, and whether by column."""
        self._prepared: tuple[tuple[int, int, bool], _Page] | None = None
        self.ages = Ages(sequence.last)
        self.stamp = 0

    def poll(self, peer: Peer, heartbeat: Heartbeat, silent: tuple[str, ...], hold_s: float | None) -> Poll:
        """Return a poll.

        Args:
            peer: the member to send it to.
            heartbeat: of this node.
            silent: the members that this node has not answered for a lease's length.
            hold_s: for how long it may be held; None for a heartbeat.
        """
        return Poll(
            version=peer.spoken.version,
            digest=self._membership.standing.text,
            sender=self._membership.me,
            heartbeat=heartbeat,
            incarnation=self._durable.incarnation,
            sequence=self._durable.position,
            recovering=self._amnesia.lasts,
            callee=peer.callee,
            position=peer.position,
            callee_life=peer.echo_life,
            echo=peer.echo,
            silent=silent,
            hold_s=hold_s,
            applied=peer.read if peer.unkept else None,
            read=self._provenance.had if peer.is_behind else None,
            by_column=True if peer.is_behind else None,
        )

    def answer(self, hold: Hold, heartbeat: Heartbeat, now: Moment, *, limit: int) -> Answer:
        """Return the answer to a poll that was held, or to one that a push takes for granted.

        Args:
            hold: the poll.
            heartbeat: of this node.
            now: the present moment.
            limit: most entries in it.
        """
        self.stamp += 1
        peer = self._peers[hold.peer]
        # The poll's position refers to the sequence of the incarnation that gave it, and to no other.
        since = hold.since if hold.callee == self._durable.incarnation else 0
        since = max(since, min(self._provenance.known_to(hold), self._durable.position))
        page = self._page(since, limit, by_column=hold.by_column)
        answer = msgspec.structs.replace(
            self.refusal(heartbeat, peer.spoken.version),
            stamp=self.stamp,
            since=since,
            upto=page.reached,
            complete=page.reached == self._durable.position,
            entries=page.entries,
            floor_ms=self._view.floor_ms,
            known=peer.sequence if hold.incarnation == peer.incarnation else 0,
            known_before=peer.changed,
            majority_forgot=self._amnesia.majority_forgot,
            read=self._provenance.told if hold.read is not None else (),
            ids=page.ids,
            ends=page.ends,
            count=len(self._sequence) if hold.by_column else 0,
        )
        if not answer.size:
            return answer
        age_s, held_s = self.ages.oldest_s(since, now.boot_s), max(0.0, now.boot_s - hold.since_s)
        return msgspec.structs.replace(answer, age_s=age_s, held_s=held_s)

    def _page(self, since: int, limit: int, *, by_column: bool) -> _Page:
        prepared, self._prepared = self._prepared, None
        wanted = since, limit, by_column
        page = prepared[1] if prepared is not None and prepared[0] == wanted else self._look_up(since, limit, by_column=by_column)
        self._next = (page.reached, limit, by_column) if page.reached < self._durable.position else None
        return page

    def _look_up(self, since: int, limit: int, *, by_column: bool) -> _Page:
        if by_column:
            entries, ids, minutes, reached = self._sequence.packed_page(since, self._durable.position, limit)
            return _Page(reached, tuple(entries), "".join(ids), tuple(minutes))
        placed, reached = self._sequence.page(since, self._durable.position, limit)
        return _Page(reached, tuple(entry for _, entry in placed))

    def prepare(self) -> None:
        """Look up the page that its reader will want next, while the reader takes in the newest one."""
        if self._next is not None:
            self._prepared = self._next, self._look_up(*self._next[:2], by_column=self._next[2])
            self._next = None

    def refusal(self, heartbeat: Heartbeat, version: int) -> Answer:
        """Return the answer to a poll that never counts: it names this node, so that the sender's operator learns of the fault."""
        return Answer(
            version=version,
            digest=self._membership.standing.text,
            sender=self._membership.me,
            heartbeat=heartbeat,
            incarnation=self._durable.incarnation,
            memory=self._amnesia.memory,
        )
