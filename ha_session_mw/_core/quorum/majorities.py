"""The majorities that a node needs: one of each member list in force."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping


class Majorities:
    """Counts members. While a member list changes, two lists are in force, and a quorum is a majority of both.

    Args:
        me: this node.
        lists: the lists in force; each names its members once. This node may be missing in one of two.

    Attributes:
        others: all other members of the lists.
        least: the smallest of the majorities.
    """

    __slots__ = ("least", "lists", "me", "others")

    def __init__(self, me: str, lists: Iterable[Collection[str]]) -> None:
        self.me = me
        self.lists = tuple(frozenset(members) for members in lists)
        self.others = tuple(sorted(frozenset().union(*self.lists) - {me}))
        self.least = min(majority_of(members) for members in self.lists)

    def reached(self, others: Collection[str]) -> bool:
        """Return whether these members, with this node, are a majority of each list."""
        together = {self.me, *others}
        return all(len(members & together) >= majority_of(members) for members in self.lists)

    def common(self, values: Mapping[str, float]) -> float:
        """Return the largest number that, in each list, a majority reaches. This node reaches any.

        Args:
            values: the number of each other member. A member without one reaches none.
        """
        return min(
            sorted((math.inf if one == self.me else values.get(one, -math.inf) for one in members), reverse=True)[len(members) // 2]
            for members in self.lists
        )

    def exclude(self, member: str, witnesses: Collection[str]) -> bool:
        """Return whether a member finds no majority without one of the witnesses, in whichever of its lists it counts."""
        told = frozenset(witnesses)
        return all(len(members & told) >= blocking_of(members) for members in self.lists if member in members)


def majority_of(members: Collection[str]) -> int:
    """Return how many members are more than half of a list."""
    return len(members) // 2 + 1


def blocking_of(members: Collection[str]) -> int:
    """Return how many members leave fewer than a majority. So many share a member with any majority."""
    return len(members) - majority_of(members) + 1
