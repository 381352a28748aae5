"""What the peers of a node did that they should not have done, or that was too much: counted, for operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

Fault = Literal["unreachable", "stalled", "refused", "unsigned", "garbage", "lied", "replayed", "queued", "turned_away", "pages", "slowed"]
"""What there is to count.

``unreachable``, ``stalled``, ``refused``: calls that it did not answer, not in time, or with a refusal. ``unsigned``:
answers that no member of this cluster has signed. ``garbage``: calls and answers that cannot be read, or are too large.
``lied``: what it said cannot be true. ``replayed``: calls that had been made before. ``queued``, ``turned_away``: calls that
were too many, and had to wait, or waited in vain. ``pages``: answers that did not hold all that it had to tell. ``slowed``:
answers with so many news, one after another, that it was left alone for a while.
"""

OTHERS = "others"


class PeerFaults:
    """Counts for each member of a list, and for all who are not in it together.

    Args:
        members: their URLs, in the order of ``HA_SESSION_PEERS``.
    """

    def __init__(self, members: Sequence[str] = ()) -> None:
        self._names = {url: f"member {place}" for place, url in enumerate(members, 1)}
        self._counts: dict[str, Counter[str]] = {}

    def note(self, url: str, fault: Fault) -> None:
        """It has done so once more."""
        self._counts.setdefault(self.name(url), Counter())[fault] += 1

    def name(self, url: str) -> str:
        """A member without its address: its place in the list."""
        return self._names.get(url, OTHERS)

    def told(self) -> Mapping[str, Mapping[str, int]]:
        """How often each has done what. Whoever has done nothing of it is not in it."""
        return {name: dict(self._counts[name]) for name in sorted(self._counts)}
