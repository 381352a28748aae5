"""Which keys the members have and sign with, and whether a step of a rotation is safe. Performs no I/O and reads no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

T = TypeVar("T")


class KeyState(msgspec.Struct, frozen=True):
    """One key in the cluster, as one node has seen it.

    Attributes:
        kid: the key's id.
        announced_by: the live members that have it.
        missing_at: the live members that do not.
        signing_at: the live members that sign with it.
        known_for_s: since when this node has known it, in seconds. The key may be older.
        signed_ago_s: when a member last signed with it; None if this node has seen none do so.
        revoked: whether the key is revoked.
        not_promoted_because: why it must not become the signing key of the members now; None if it may.
        not_retired_because: why the members must not give it up now; None if they may.
    """

    kid: str
    announced_by: tuple[str, ...]
    missing_at: tuple[str, ...]
    signing_at: tuple[str, ...]
    known_for_s: float
    signed_ago_s: float | None
    revoked: bool
    not_promoted_because: str | None
    not_retired_because: str | None


REMEMBERED_S = 60.0
"""How long the keys of a member count as known after it was last heard: as long as a restart takes. A key counts as lacked for as long."""


class KeyFit(msgspec.Struct, frozen=True):
    """How the keys of a node go together with those of the other live members.

    Attributes:
        apart: the members that cannot validate what this node signs, or sign what it cannot validate.
        is_odd: whether most members are apart from this node. Then its keys are wrong, and the others go on. Members that have revoked
            keys only do not count: no node accepts what they sign.
    """

    apart: tuple[str, ...] = ()
    is_odd: bool = False


class KeyUse:
    """Remembers when each key was first announced, and when it last signed. Begins anew with each process.

    Args:
        boot_s: the boot-time clock, from which on this node watches.
    """

    def __init__(self, boot_s: float) -> None:
        self._begun_s = boot_s
        self._first_s: dict[str, float] = {}
        self._signed_s: dict[str, float] = {}
        self._heard: dict[str, tuple[Sequence[str], float]] = {}
        """The newest keys of each member, and when it was last heard."""
        self._lacked_s: dict[str, float] = {}
        """When a token last came whose key this node does not have and another member has."""

    def look(self, members: Mapping[str, Sequence[str]], denied: Collection[str], boot_s: float) -> None:
        """Note the keys of all live members, the newest key of each first."""
        for kids in members.values():
            for kid in kids:
                self._first_s.setdefault(kid, boot_s)
        for kid in signing(members, denied).values():
            self._signed_s[kid] = boot_s
        heard = {name: (kids, boot_s) for name, kids in members.items()}
        self._heard = {name: seen for name, seen in self._heard.items() if boot_s - seen[1] <= REMEMBERED_S} | heard
        self._lacked_s = {kid: lacked_s for kid, lacked_s in self._lacked_s.items() if boot_s - lacked_s <= REMEMBERED_S}

    def remembers(self, kid: str, boot_s: float) -> bool:
        """Whether a member had this key when it was last heard, and may be back soon."""
        return any(kid in kids for kids, heard_s in self._heard.values() if boot_s - heard_s <= REMEMBERED_S)

    def lack(self, kid: str, boot_s: float) -> None:
        """Note that a token came whose key another member has, and this node does not."""
        self._lacked_s[kid] = boot_s

    def lacked(self, boot_s: float) -> tuple[str, ...]:
        """Return the keys that were lacked a short while ago."""
        return tuple(kid for kid, lacked_s in self._lacked_s.items() if boot_s - lacked_s <= REMEMBERED_S)

    def states(
        self, members: Mapping[str, Sequence[str]], denied: Collection[str], boot_s: float, *, life_s: float, expected: int
    ) -> list[KeyState]:
        """Return the state of each key that a live member has.

        Args:
            members: the key ids of each live member, the newest first.
            denied: the ids of revoked keys.
            boot_s: the boot-time clock.
            life_s: how long a token may live.
            expected: how many members the cluster should have.
        """
        self.look(members, denied, boot_s)
        signs = signing(members, denied)
        found = []
        for kid in dict.fromkeys(kid for kids in members.values() for kid in kids):
            missing = tuple(name for name, kids in members.items() if kid not in kids)
            signing_at = tuple(name for name, signed in signs.items() if signed == kid)
            signed_s = self._signed_s.get(kid)
            silent = f"{expected - len(members)} of {expected} members are not heard" if len(members) < expected else None
            revoked = "the key is revoked" if kid in denied else None
            lacking = f"not announced by {', '.join(missing)}" if missing else None
            found.append(
                KeyState(
                    kid=kid,
                    announced_by=tuple(name for name, kids in members.items() if kid in kids),
                    missing_at=missing,
                    signing_at=signing_at,
                    known_for_s=boot_s - self._first_s[kid],
                    signed_ago_s=None if signed_s is None else boot_s - signed_s,
                    revoked=kid in denied,
                    not_promoted_because=revoked or lacking or silent,
                    not_retired_because=None if kid in denied else self._still_needed(signing_at, signed_s, boot_s, life_s) or silent,
                )
            )
        return found

    def _still_needed(self, signing_at: Sequence[str], signed_s: float | None, boot_s: float, life_s: float) -> str | None:
        if signing_at:
            return f"signs at {', '.join(signing_at)}"
        # Before this node watched, any member may have signed with the key.
        left_s = max(signed_s if signed_s is not None else self._begun_s, self._begun_s) + life_s - boot_s
        return f"tokens that it signed may live for {left_s:.0f} s more" if left_s > 0 else None


def signing(members: Mapping[str, Sequence[str]], denied: Collection[str]) -> dict[str, str]:
    """Return the key that each member signs with: its newest that all others have, as :meth:`.KeyRing.signing_key` chooses it."""
    having = Counter(kid for kids in members.values() for kid in set(kids))
    found = {}
    for name, kids in members.items():
        usable = [kid for kid in kids if kid not in denied] or [*kids]
        if usable:
            found[name] = max(usable, key=having.__getitem__)  # each counts the member itself once, so that makes no difference
    return found


def fit_of(own: str, members: Mapping[str, Sequence[str]], denied: Collection[str]) -> KeyFit:
    """Return how one member's keys go together with those of all others."""
    signs = signing(members, denied)
    others = {name: kids for name, kids in members.items() if kids and name != own}
    apart = tuple(name for name, kids in others.items() if signs.get(name) not in members[own] or signs.get(own) not in kids)
    counted = {name for name, kids in others.items() if any(kid not in denied for kid in kids)}
    return KeyFit(apart, len(counted.intersection(apart)) * 2 > 1 + len(counted))


def told_apart(named: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return a mapping in which members that share a name have numbers: ``b``, ``b (2)``."""
    found: dict[str, T] = {}
    for name, value in named:
        own, number = name, 1
        while own in found:
            number += 1
            own = f"{name} ({number})"
        found[own] = value
    return found
