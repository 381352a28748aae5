"""The journal: provisional log-outs, which the node enforces and the cluster has not taken yet, written down to outlive a restart."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio

from .._core.cluster.entries import decode_entry, encode_entry
from .._machine.file_trouble import FileTrouble
from .._machine.threads import in_own_thread
from ..exceptions import ConfigurationError, QuorumLost
from ..models import Entry

if TYPE_CHECKING:
    from .._machine.journal import JournalFile
    from ..config import Settings

logger = logging.getLogger("ha_session_mw.revocations")

_REMEDY = (
    "; it has log-outs that may not be in force on other nodes: restore provisional.journal, or move it away and log those users out again"
)


class Journal:
    """Provisional log-outs: this node enforces them, and no majority is known to hold them.

    Args:
        file: keeps them across a restart; None if this node has no ``HA_SESSION_STATE_DIR``.

    Attributes:
        entries: all of them, the oldest first.
    """

    def __init__(self, file: JournalFile | None) -> None:
        self._file = file
        self._disk = anyio.Lock()
        self._closed = False
        """Whether another process may use the file by now. A write that is still under way must not open it again."""
        self._filled = anyio.Event()
        self.entries: list[Entry] = []

    def load(self) -> Sequence[Entry]:
        """Read the file; return its entries.

        Raises:
            ConfigurationError: the file cannot be used.
        """
        if self._file is None:
            return ()
        try:
            found = [decode_entry(record) for record in self._file.load()]
        except FileTrouble as trouble:
            # Path.is_file raises if this user may not look. A file that was never written holds no log-outs.
            remedy = _REMEDY if not trouble.passing and os.path.isfile(self._file.path) else ""  # noqa: PTH113
            raise ConfigurationError([f"HA_SESSION_STATE_DIR: the journal in it cannot be used: it {trouble}{remedy}"]) from trouble
        except (ValueError, RecursionError) as exc:
            raise ConfigurationError([f"HA_SESSION_STATE_DIR: the journal in it cannot be used: a record is damaged{_REMEDY}"]) from exc
        self.entries += found
        return found

    @property
    def keeps(self) -> bool:
        """Whether entries can be written down."""
        return self._file is not None

    async def add(self, entries: Sequence[Entry], lost: QuorumLost) -> None:
        """Write entries down, all or none.

        Args:
            entries: the entries that the cluster could not take.
            lost: why it could not.

        Raises:
            QuorumLost: there is no file, or it cannot be written.
        """
        if self._file is None:
            raise lost
        async with self._disk:
            if self._closed:
                raise lost
            try:
                await in_own_thread(self._write, self._file, entries)
            except FileTrouble as trouble:
                logger.error("nothing was written to the journal in HA_SESSION_STATE_DIR: it %s", trouble)
                raise QuorumLost("no majority, and the journal cannot be written") from trouble
            self.entries += entries
            self._filled.set()

    async def wait_filled(self) -> None:
        """Return once there are entries."""
        while not self.entries:
            self._filled = anyio.Event()
            await self._filled.wait()

    def _write(self, file: JournalFile, entries: Sequence[Entry]) -> None:
        records = [*map(encode_entry, entries)]
        if not file.is_another():
            file.append(records)
            return
        file.rewrite([*map(encode_entry, self.entries), *records])
        logger.error("the journal in HA_SESSION_STATE_DIR was deleted or replaced; all provisional log-outs are written down anew")

    async def restore(self) -> None:
        """Write all entries down again if the file was deleted or replaced. They were acknowledged as written down."""
        if self._file is None or not self.entries or not self._file.is_another():
            return
        async with self._disk:
            if self._closed:
                return
            try:
                await in_own_thread(self._write, self._file, ())
            except FileTrouble as trouble:
                logger.error("the journal in HA_SESSION_STATE_DIR was deleted or replaced, and cannot be written anew: it %s", trouble)

    async def remove(self, entries: Sequence[Entry]) -> bool:
        """Remove entries that a majority holds; return whether the file was written."""
        async with self._disk:
            removed = set(entries)
            kept = [entry for entry in self.entries if entry not in removed]
            try:
                if self._file is not None:
                    await in_own_thread(self._file.replace, [encode_entry(entry) for entry in kept])
            except FileTrouble as trouble:
                logger.error("nothing was written to the journal in HA_SESSION_STATE_DIR: it %s", trouble)
                return False  # the entries are appended again, which is harmless
            self.entries = kept
        return True

    def hold(self) -> None:
        """Keep other processes from the file until :meth:`close`: this node runs."""
        self._closed = False
        if self._file is not None:
            self._file.hold()

    async def close(self) -> None:
        """Let another process have the file."""
        if self._file is not None:
            with anyio.move_on_after(5, shield=True):
                async with self._disk:
                    self._closed = True
                    self._file.close()


def open_journal(settings: Settings) -> Journal:
    """Return the journal for these settings: with a file if they ask for provisional log-outs and name a folder."""
    folder = settings.state_dir
    if folder is None or settings.no_quorum != "provisional":
        return Journal(None)
    from .._machine.journal import JournalFile  # a node without files needs no SQLite
    from .._machine.sqlite_file import OPEN_S

    # A worker drains while the one that replaces it starts.
    return Journal(JournalFile(folder / "provisional.journal", open_s=OPEN_S + settings.drain_delay))
