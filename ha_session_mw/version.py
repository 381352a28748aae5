"""The release, and the versions of all that it writes: the one place where they are known.

Two processes that talk agree on a version. Each says in its heartbeats which ones it reads, and writes in the highest one that the other
reads, too. Nobody can agree with the reader of what stays, such as a file: it may be a node of the last release.
"""

from __future__ import annotations

import msgspec

__version__ = "0.1.0"


class Versions(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The versions that a node reads, from the lowest to the highest."""

    lowest: int
    highest: int

    def __contains__(self, version: int) -> bool:
        return self.lowest <= version <= self.highest

    def __str__(self) -> str:
        return f"version {self.lowest}" if self.lowest == self.highest else f"versions {self.lowest} to {self.highest}"

    def common(self, other: Versions) -> int | None:
        """Return the highest version that both read; None if there is none."""
        highest = min(self.highest, other.highest)
        return highest if highest >= max(self.lowest, other.lowest) else None


UNTOLD = Versions(1, 1)
"""The versions of the protocol that a node reads which does not say so: one of the first release."""
PROTOCOL = Versions(1, 1)
"""Of all that nodes say to each other: polls, answers, pushes, and questions about tokens, records and fences."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """The versions of a form in which something stays.

    A release writes only what the release before it reads, so that each may follow the other on the same data. So one release reads a new
    version, and the next one writes it.

    Attributes:
        reads: the versions that this release reads.
        writes: the version that it writes.
    """

    reads: Versions
    writes: int


BATCH = Stored(Versions(1, 1), writes=1)
"""Of a batch in a file of ``peers:///path``."""
ENTRY = Stored(Versions(1, 1), writes=1)
"""Of an entry, and all else, in the log of ``etcd://`` and in the file of ``sqlite://``."""
CHECKPOINT = Stored(Versions(1, 1), writes=1)
"""Of a checkpoint of the log of ``etcd://``. A release that cannot read one reads the log itself."""
RECORD = Stored(Versions(1, 1), writes=1)
"""Of the content of a record of session data."""
ETCD_RECORD = Stored(Versions(1, 1), writes=1)
"""Of what etcd keeps with the content of any record."""
LOG_IN = Stored(Versions(1, 1), writes=1)
"""Of a record of a log-in, and of the list of a subject's log-ins."""
ONCE = Stored(Versions(1, 1), writes=1)
"""Of a record of an idempotency key."""
TOKEN = Stored(Versions(1, 1), writes=1)
"""Of a token."""
TABLES = Stored(Versions(1, 1), writes=1)
"""Of the tables in each SQLite file."""
