"""Count the faults of a node's peers, for operators: calls that failed, and calls that were wrong or too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

Fault = Literal[
    "unreachable", "stalled", "refused", "unsigned", "garbage", "incomplete", "lied", "replayed", "queued", "turned_away", "pages", "slowed"
]
"""The kinds of faults.

* ``unreachable``, ``stalled``, ``refused``: the peer did not answer a call, did not answer in time, or refused.
* ``unsigned``: no member of this cluster signed the answer.
* ``garbage``: a call or an answer cannot be parsed.
* ``incomplete``: the body of a call is too large, or did not arrive in time. Perhaps somebody else repeats headers that it has seen.
* ``lied``: a statement of the peer cannot be true.
* ``replayed``: the peer made the same call again.
* ``queued``, ``turned_away``: a call had to wait because the peer calls too often; it waited in vain.
* ``pages``: an answer did not contain all news of the peer.
* ``slowed``: the peer sent so many full answers in a row that this node polls it less often for a while.
"""

OTHERS = "others"
"""The name under which callers outside the list of members are counted together."""


def ignore(peer: str, fault: str) -> None:
    """Do nothing about a fault but count it."""


class PeerFaults:
    """Counts faults for each member of a list, and in one sum for all callers outside the list.

    Args:
        members: the URLs of the members, in the order of ``HA_SESSION_PEERS``; then those that only ``HA_SESSION_PEERS_NEXT`` names.
        on_fault: is called with the name of the peer, and each fault.
    """

    def __init__(self, members: Sequence[str] = (), *, on_fault: Callable[[str, Fault], None] = ignore) -> None:
        self._names = {url: f"member {place}" for place, url in enumerate(members, 1)}
        self._counts: dict[str, Counter[str]] = {}
        self._on_fault = on_fault

    def note(self, url: str, fault: Fault) -> None:
        """Count one more fault of a peer."""
        name = self.name(url)
        self._counts.setdefault(name, Counter())[fault] += 1
        self._on_fault(name, fault)

    def name(self, url: str) -> str:
        """Return a member's name for logs: its place in the list instead of its address."""
        return self._names.get(url, OTHERS)

    def told(self) -> Mapping[str, Mapping[str, int]]:
        """Return the counts by member and fault. Members without faults are missing."""
        return {name: dict(self._counts[name]) for name in sorted(self._counts)}
