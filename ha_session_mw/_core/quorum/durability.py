"""How much of a node's sequence is kept on disk, and whether what was found there can be relied on.

What is not kept is neither served nor acknowledged. A node without a file keeps all it knows, for as long as it lives.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..cluster.view import View
from .messages import VERSION, Batch
from .sequence import Sequence


class DurablePrefix:
    """The state of one node's file, or of its memory where it has none.

    Args:
        sequence: what is to be kept; filled from the file at first.
        view: what the sequence is of; the same.
        life: names the process.
        stored: the batches of the file; None where there is no file.

    Attributes:
        incarnation: what positions and acknowledgements belong to: the life of the process that began them.
        position: up to where the sequence is kept.
        learned: whether the incarnation has learned all that it may have forgotten, and keeps it.
        unchecked: whether nobody has confirmed yet that the file is not older than what it stands for.
    """

    __slots__ = ("_kept_as", "_life", "_sequence", "_stores", "_view", "incarnation", "learned", "position", "unchecked")

    def __init__(self, sequence: Sequence, view: View, life: str, stored: Iterable[Batch] | None) -> None:
        self._sequence = sequence
        self._view = view
        self._life = life
        self._stores = stored is not None
        self.incarnation = life
        self.learned = not self._stores
        for batch in stored or ():
            self._restore(batch)
        self.position = sequence.last
        self._kept_as = "" if self.incarnation == life else self.incarnation
        self.unchecked = self._stores and self.learned

    def _restore(self, batch: Batch) -> None:
        if batch.incarnation != self.incarnation:
            self.incarnation, self.learned = batch.incarnation, False
        self.learned |= batch.learned
        self._view.raise_floor(batch.floor_ms)
        for position, entry in batch.entries:
            if self._view.merge(entry):
                self._sequence.append(entry, position)
        self._sequence.last = max(self._sequence.last, batch.upto)

    def follow(self) -> None:
        """Without a file, what is known is kept."""
        if not self._stores:
            self.position = self._sequence.last

    def unkept(self, limit: int, *, recovered: bool) -> Batch | None:
        """The next ``limit`` entries to be kept; None if all is."""
        # A file that was not confirmed is not written to: a position that it gave anew would hide how old it is.
        if not self._stores or self.unchecked:
            return None
        done = self.position == self._sequence.last and self._kept_as == self.incarnation and (self.learned or not recovered)
        return None if done else self._batch(self.position, limit, recovered=recovered)

    def everything(self, *, recovered: bool) -> Batch:
        """All there is, as one batch."""
        return self._batch(0, self._sequence.last, recovered=recovered)

    def _batch(self, since: int, limit: int, *, recovered: bool) -> Batch:
        entries, reached = self._sequence.page(since, self._sequence.last, limit)
        return Batch(
            version=VERSION,
            incarnation=self.incarnation,
            # Only with all that was learned: a file that claims more than it holds would hide an amnesia at the next start.
            learned=self.learned or (recovered and reached == self._sequence.last),
            floor_ms=self._view.floor_ms,
            upto=reached,
            entries=tuple(entries),
        )

    def kept(self, batch: Batch) -> None:
        """The batch is on the disk."""
        if batch.incarnation == self.incarnation:
            self._kept_as = batch.incarnation
            self.position = max(self.position, batch.upto)
            self.learned |= batch.learned

    def confirm(self) -> None:
        """Nobody who was asked knows more than the file."""
        self.unchecked = False

    def start_anew(self) -> None:
        """The file is old. What it holds is true still, but who acknowledged more than that is nobody any more."""
        self.incarnation, self.position, self.learned, self.unchecked = self._life, 0, False, False
