"""The member lists of one node, and how far a change of the list has come.

The list changes from the old one to both lists, and from both to the new one. Raft's joint consensus does the same (Ongaro and Ousterhout
2014, section 6). A node with both lists needs a majority of each. So its quorums share a member with those of any node with a single list.
Quorums of the old list alone and of the new list alone need not share any. So the old list is
**sealed** before the new one stands alone. Both acts are entries of the log, which no majority forgets:

* the seal: a node that knows it counts no longer together with nodes of the old list alone. Once it is fenced, those have neither a
  quorum nor a lease.
* the move: written by a node that has read, after the seal was fenced, everything that a majority knows. So each node that knows the
  move knows all that the old list has acknowledged, and the new list stands alone.

The entries are denials of an id that no token has. A release that knows no lists keeps them, and passes them on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from ..cluster.view import NO_SESSION
from .majorities import Majorities
from .messages import list_digest

MARK = f"{NO_SESSION}lists."
"""The first characters of the ids that stand for changes."""
MARK_LIFE_MS = 10 * 365 * 86_400_000
"""How long a change is remembered: longer than any node may be away, and come back with an old list."""

APART = -1
"""The stage of a node that counts together with no node of other lists, nor with one of its own: another list stands."""
OPEN, SEALED, MOVED = 0, 1, 2

Stage = Literal["steady", "joint", "sealed", "moved", "retired", "waiting"]


class Change(NamedTuple):
    """An act in the change from one list to another. The latest act is the largest one.

    Attributes:
        generation: the running number of the change.
        act: ``SEALED`` or ``MOVED``.
        old: the digest of the list that ends.
        new: the digest of the list that stands then.
    """

    generation: int
    act: int
    old: str
    new: str

    @property
    def id(self) -> str:
        """The id that is denied."""
        return f"{MARK}{self.generation}.{self.act}.{self.old}.{self.new}"

    @classmethod
    def parse(cls, id: str) -> Change | None:
        """Return the change that an id stands for; None for any other id."""
        if not id.startswith(MARK):
            return None
        match id.removeprefix(MARK).split("."):
            case [generation, ("1" | "2") as act, old, new] if generation.isdecimal() and len(generation) < 10:
                return cls(int(generation), int(act), old, new)
        return None


class Standing(NamedTuple):
    """The lists of a node, as its messages name them, and how far the node knows their change to have come.

    Attributes:
        lists: the digests of its lists, the current one first.
        stage: ``APART``, ``OPEN``, ``SEALED`` or ``MOVED``; a single list that stands is ``OPEN``.
    """

    lists: tuple[str, ...]
    stage: int

    @property
    def text(self) -> str:
        """The text in messages. Of a single list that stands it is the digest alone, as in releases that know no changes."""
        if len(self.lists) == 1 and self.stage == OPEN:
            return self.lists[0]
        return f"{'>'.join(self.lists)}:{self.stage}"

    @classmethod
    def parse(cls, text: str) -> Standing:
        """Return what a message says. Text that says nothing names a list that nobody has."""
        lists, found, stage = text.partition(":")
        if not found:
            return cls((text,), OPEN)
        known = {"-1": APART, "0": OPEN, "1": SEALED, "2": MOVED}.get(stage)
        return cls((text,), APART) if known is None else cls(tuple(lists.split(">")[:2]), known)

    def is_related(self, other: Standing) -> bool:
        """Return whether the two nodes have a list in common, so that one may tell the other how far the change has come."""
        return not set(self.lists).isdisjoint(other.lists)

    def counts_with(self, other: Standing) -> bool:
        """Return whether the two nodes may count each other: then any quorum of one shares a member with any quorum of the other."""
        if APART in (self.stage, other.stage):
            return False
        if self.lists == other.lists:
            return True
        if len(self.lists) == len(other.lists):
            return False
        (single,), joint = (self.lists, other) if len(self.lists) == 1 else (other.lists, self)
        return joint.stage == {joint.lists[0]: OPEN, joint.lists[1]: MOVED}.get(single)


class Membership:
    """The lists of one node.

    Args:
        me: this node.
        current: the members of the current list.
        coming: the members of the next list; empty while no change is under way.

    Attributes:
        everybody: all members of both lists, the current one's first.
        digests: of the lists.
        latest: the latest change that this node knows of.
        awaits_move: whether this node has left both lists for the new one, and must learn that the new one stands alone.

    Raises:
        ValueError: neither list names this node, or one names a member twice.
    """

    def __init__(self, me: str, current: Iterable[str], coming: Iterable[str] = ()) -> None:
        lists = [list(members) for members in (current, coming)]
        listed = [members for members in lists if members]
        if not any(me in members for members in listed) or any(len(set(members)) < len(members) for members in listed):
            raise ValueError(f"the list of members must name each of them once, {me!r} included, got {lists[0]!r}")
        if len(listed) == 2 and set(listed[0]) == set(listed[1]):
            del listed[1]
        self.me = me
        self.lists = tuple(frozenset(members) for members in listed)
        self.everybody = tuple(dict.fromkeys(one for members in listed for one in members))
        self.digests = tuple(list_digest(members) for members in listed)
        self.latest: Change | None = None
        self.awaits_move = False
        self._conclude()

    def _conclude(self) -> None:
        self.stage = self._stage()
        self.standing = Standing(self.digests, self.stage)
        """The text in this node's messages stands for it."""
        self.majorities = Majorities(self.me, self.lists[1:] if self.stage == MOVED else self.lists)
        """The majorities that a quorum of this node needs."""

    @property
    def is_joint(self) -> bool:
        """Whether this node has two lists."""
        return len(self.digests) == 2

    def _stage(self) -> int:
        latest = self.latest
        if latest is not None and latest[2:] == self.digests:
            return latest.act
        if latest is None or (latest.act == MOVED and latest.new == self.digests[0]):
            return APART if latest is None and self.awaits_move else OPEN
        return APART

    @property
    def serves(self) -> bool:
        """Whether this node may validate sessions.

        Nodes of the old list alone do not wait for a member that only the new list names. So it may hold no lease until they have
        none. Likewise a member that only the old list names, once the new list may stand alone.
        """
        needed = self.lists if not self.is_joint else {OPEN: self.lists[:1], SEALED: self.lists, MOVED: self.lists[1:]}.get(self.stage, ())
        return self.stage != APART and all(self.me in members for members in needed)

    @property
    def phase(self) -> Stage:
        """How far the change of the list has come, in a word."""
        if self.stage == APART:
            waits = self.latest is None or self.awaits_move or self.latest.new == self.digests[0]
            return "waiting" if waits else "retired"
        return ("joint", "sealed", "moved")[self.stage] if self.is_joint else "steady"

    # Acts.

    def note(self, id: str) -> bool:
        """Take note of an id that was denied; return whether it is an act that changes this node's standing."""
        change = Change.parse(id)
        if change is None or (self.latest is not None and change <= self.latest):
            return False
        self.latest = change
        before = self.standing
        self._conclude()
        return self.standing != before

    def seal(self) -> Change:
        """Return the act that seals the old list."""
        return self._act(SEALED)

    def move(self) -> Change:
        """Return the act after which the new list stands alone."""
        return self._act(MOVED)

    def _act(self, act: int) -> Change:
        old, new = self.digests
        latest = self.latest
        ours = latest is not None and latest[2:] == (old, new)
        generation = 1 if latest is None else latest.generation + (not ours)
        return Change(generation, act, old, new)

    # The file.

    def follows(self, kept: tuple[str, ...]) -> bool:
        """Return whether a file that was written under these lists may be continued under this node's.

        Args:
            kept: the digests; empty for the file of a release that did not write them. Such a file takes this node's lists.
        """
        if not kept or kept == self.digests:
            return True
        latest = self.latest
        if self.digests == kept[1:]:
            self.awaits_move = True
            self._conclude()
            return True
        if latest is not None and latest[2:] == self.digests:
            return kept[0] in self.digests
        # Back from both lists to the old one, or on to another next list: until the old one is sealed.
        has_moved = latest is not None and latest.act == MOVED and latest.old == kept[0]
        return self.digests[0] == (latest.new if latest is not None and has_moved else kept[0]) and self.stage == OPEN

    def why_not_after(self, kept: tuple[str, ...]) -> str:
        """Return why a file may not be continued under this node's lists, and what to do.

        Args:
            kept: the digests under which the file was written.
        """
        latest = self.latest
        if latest is not None and latest.old == kept[0] and self.digests[0] == latest.old:
            return (
                f"the list {latest.old} was given up for {latest.new}; set HA_SESSION_PEERS to the new list. "
                "If you want the old list back, change to it by HA_SESSION_PEERS_NEXT, once all nodes have the new one"
            )
        was = " and ".join(kept)
        return (
            f"the file of HA_SESSION_CLUSTER was written under another list of members ({was}; this is {' and '.join(self.digests)}), and "
            "two lists at once could have two majorities. Set HA_SESSION_PEERS to the list before and HA_SESSION_PEERS_NEXT to the new "
            "one on all nodes, one node after another; then set HA_SESSION_PEERS to the new list alone"
        )
