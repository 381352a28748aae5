"""How much of a node's sequence is kept on disk, and whether the file's content can be relied on.

A node neither serves nor acknowledges an entry that it does not keep. A node without a file keeps its entries as long as it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ...version import BATCH
from ..cluster.invariants import ensure
from ..cluster.view import View
from .messages import Batch
from .sequence import Sequence


class DurablePrefix:
    """The prefix of one node's sequence that its file holds, or its memory where it has none.

    Args:
        sequence: the sequence to keep. The file's content goes into it first.
        view: the entries that the sequence orders. The file's content goes into it, too.
        life: names the process.
        stored: the batches of the file; None where there is no file.

    Attributes:
        incarnation: the incarnation to which positions and acknowledgements belong: the life of the process that began them.
        position: up to where the sequence is kept.
        learned: whether the incarnation has learned everything that it may have forgotten, and keeps it.
        unchecked: whether the other members have yet to confirm that the file is not an old one.
        stores: whether there is a file.
        lists: the digests of the member lists to keep it under; at first those of the file.
        was_unlisted: whether a release wrote the file that did not note the lists.
    """

    __slots__ = (
        *("_kept_as", "_kept_under", "_life", "_sequence", "_view", "_writing"),
        *("incarnation", "learned", "lists", "position", "stores", "unchecked", "was_unlisted"),
    )

    def __init__(self, sequence: Sequence, view: View, life: str, stored: Iterable[Batch] | None) -> None:
        self._sequence = sequence
        self._view = view
        self._life = life
        self._writing = False
        self.stores = stored is not None
        self.incarnation = life
        self.learned = not self.stores
        self.lists: tuple[str, ...] = ()
        self.was_unlisted = False
        for batch in stored or ():
            self._restore(batch)
        sequence.forget_some()
        self.position = sequence.last
        self._kept_as = "" if self.incarnation == life else self.incarnation
        self._kept_under: tuple[str, ...] = self.lists
        self.unchecked = self.stores and self.learned

    def _restore(self, batch: Batch) -> None:
        if batch.incarnation != self.incarnation:
            self.incarnation, self.learned = batch.incarnation, False
        self.learned |= batch.learned
        self.lists = batch.lists
        self.was_unlisted = not batch.lists
        self._view.raise_floor(batch.floor_ms)
        positions = {id(entry): position for position, entry in batch.entries}
        news = self._view.merge_all(entry for _, entry in batch.entries)
        for entry in sorted(news, key=lambda entry: positions[id(entry)]):
            self._sequence.append(entry, positions[id(entry)])
        self._sequence.last = max(self._sequence.last, batch.upto)

    def follow(self) -> None:
        """Take all that is known for kept, if there is no file."""
        if not self.stores:
            self.position = self._sequence.last

    def next_batch(self, limit: int, *, recovered: bool) -> Batch | None:
        """Return the next ``limit`` entries to keep; None if all is kept, or while an earlier batch is being written.

        Args:
            limit: most entries in it.
            recovered: whether the node has learned all that it may have forgotten.
        """
        # The node does not write to an unconfirmed file: a position that it gave anew would hide how old the file is.
        if not self.stores or self.unchecked or self._writing:
            return None
        is_kept_so = self._kept_as == self.incarnation and self._kept_under == self.lists
        if self.position == self._sequence.last and is_kept_so and (self.learned or not recovered):
            return None
        self._writing = True
        return self._batch(self.position, limit, recovered=recovered)

    def everything(self, limit: int, *, recovered: Callable[[], bool]) -> Iterator[Batch]:
        """Yield all there is, in batches of ``limit`` entries: what comes in between, too."""
        reached, is_all = 0, False
        while not is_all:
            batch = self._batch(reached, limit, recovered=recovered())
            reached = batch.upto
            is_all = reached == self._sequence.last
            yield batch

    def _batch(self, since: int, limit: int, *, recovered: bool) -> Batch:
        entries, reached = self._sequence.page(since, self._sequence.last, limit)
        return Batch(
            version=BATCH.writes,
            incarnation=self.incarnation,
            # Only with all that was learned: a file that claims more than it holds would hide an amnesia at the next start.
            learned=self.learned or (recovered and reached == self._sequence.last),
            floor_ms=self._view.floor_ms,
            upto=reached,
            entries=tuple(entries),
            lists=self.lists,
        )

    def kept(self, batch: Batch) -> None:
        """Take note that the batch is on the disk."""
        self._writing = False
        if batch.incarnation == self.incarnation:
            self._kept_as, self._kept_under = batch.incarnation, batch.lists
            self.position = max(self.position, batch.upto)
            self.learned |= batch.learned

    def take_back(self) -> None:
        """Take note that the batch that was handed out is not on the disk."""
        self._writing = False

    def confirm(self) -> None:
        """Take note that no member that was asked knows more than the file."""
        self.unchecked = False

    def start_anew(self) -> None:
        """Begin a new incarnation: the file is old.

        Its entries are still valid, but the incarnation that acknowledged more no longer exists.
        """
        self.incarnation, self.position, self.learned, self.unchecked = self._life, 0, False, False

    def check(self) -> None:
        """Check what must hold after each change.

        Raises:
            InvariantBroken: it does not hold.
        """
        ensure(0 <= self.position <= self._sequence.last, "no more is kept than there is")
        ensure(self.stores or self.position == self._sequence.last, "a node without a file keeps all it knows")
        ensure(self.stores or self.learned, "a node without a file has no file to distrust")
        ensure(not self.unchecked or (self.stores and self.learned), "only a file that claims to be whole waits to be confirmed")
        ensure(not self.unchecked or self.incarnation == self._kept_as, "an unconfirmed file is continued as what it was")
