"""Chooses the ranges of keys in which a long log is read. Performs no I/O.

For each page, etcd 3.4 collects all keys of the range that is asked for, and 3.5 counts them, whatever the limit is. A log that is read
page by page in one range costs the square of its length. So each range here reaches little further than its page.
"""

from __future__ import annotations

from .api import Page

_CHARACTERS = b"-./0123456789:ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
"""The characters in nearly all keys, in their order. A range begins or ends at one of them. Others lie within a range like all keys."""
FEW = 8
"""A page with fewer keys than this part of a full one, and no more to come, has the next range be wider."""


class Ranges:
    """The ranges in which all keys are read, one after the other, without a gap.

    A range has all keys that begin with the same characters as its first key, as many of them as :attr:`depth` says.

    Attributes:
        start, end: the next range includes its start, and excludes its end. The first range has all keys.
        done: whether there is none.
    """

    def __init__(self, start: bytes, end: bytes) -> None:
        self.start, self.end = start, end
        self.done = False
        self._last = end
        self._depth = 0

    def read(self, page: Page, limit: int) -> None:
        """Take in the page that was read from the present range with this limit."""
        if page.more:
            # The page lies below the characters that all of its keys have. One more of them leads to a part of it.
            self._depth = _common(page.kvs[0].key, page.kvs[-1].key) + 1
            self.start = page.kvs[-1].key + b"\0"
        else:
            self.start = self.end
            if len(page.kvs) * FEW < limit:
                self._depth = max(0, self._depth - 1)
        self.done = self.start >= self._last
        self.end = self._after(self.start[: self._depth])

    def _after(self, prefix: bytes) -> bytes:
        """Return a key behind all that begin with these characters."""
        for at in range(len(prefix) - 1, -1, -1):
            greater = [character for character in _CHARACTERS if character > prefix[at]]
            if greater:
                return min(prefix[:at] + bytes(greater[:1]), self._last)
        return self._last


def _common(one: bytes, other: bytes) -> int:
    """Return with how many characters two keys begin alike."""
    return next((at for at, (mine, its) in enumerate(zip(one, other, strict=False)) if mine != its), min(len(one), len(other)))
