"""Log-outs: made durable and fenced through the log; written down and made good later where there is no majority."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio
import anyio.to_thread
import msgspec

from .._machine.journal import StateFile
from .._machine.sqlite_file import FileTrouble
from ..abc import Clock, ClusterLog
from ..exceptions import ConfigurationError, EntryRejected, QuorumLost
from ..models import Acknowledgement, Cut, Deny, DenyKey, Entry

logger = logging.getLogger("ha_session_mw.revocations")

MAKE_GOOD_EVERY_S = 1.0
"""How often what is provisional is tried again. The log itself spreads it as soon as a peer can be reached."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Deny | Cut | DenyKey).decode


class Revocations:
    """Carries entries to the log, and tells how far each has got.

    Args:
        log: the cluster's log.
        clock: for the time that it took.
        journal: where provisional log-outs are written down; None: without a majority they are refused.

    Raises:
        ConfigurationError: the journal cannot be used.
    """

    def __init__(self, log: ClusterLog, clock: Clock, journal: StateFile | None) -> None:
        self._log = log
        self._clock = clock
        self._journal = journal
        self._disk = anyio.Lock()
        self._left = False
        """Whether the journal may be another process's by now. What is still under way must not take it back."""
        self.provisional: list[Entry] = self._load()
        """What this node enforces and no majority is known to hold."""
        log.apply(self.provisional)

    def _load(self) -> list[Entry]:
        if self._journal is None:
            return []
        try:
            return [_decode(record) for record in self._journal.load()]
        except FileTrouble as trouble:
            raise ConfigurationError([f"HA_SESSION_STATE_DIR: the journal in it cannot be used: it {trouble}"]) from trouble
        except (ValueError, RecursionError) as exc:
            raise ConfigurationError([f"HA_SESSION_STATE_DIR: the journal in it cannot be used: a record is damaged: {exc}"]) from exc

    async def revoke(self, entry: Entry) -> Acknowledgement:
        """Log out, and return once that is fenced; or provisional, for want of a majority.

        Raises:
            QuorumLost: there is no majority, and no journal. This node enforces the log-out all the same.
        """
        begun_s = self._clock.boot_s()
        try:
            receipt = await self._log.append([entry])
            await self._log.fence(receipt)
        except QuorumLost as lost:
            await self._write_down(entry, lost)
            return Acknowledgement(mode="provisional", waited_s=self._clock.boot_s() - begun_s)
        return Acknowledgement(mode="fenced", waited_s=self._clock.boot_s() - begun_s)

    async def deny(self, entry: Entry) -> None:
        """As :meth:`revoke`, without waiting for the fence."""
        try:
            await self._log.append([entry])
        except QuorumLost as lost:
            await self._write_down(entry, lost)

    async def _write_down(self, entry: Entry, lost: QuorumLost) -> None:
        """Keep a log-out that the cluster could not take; where there is no journal, tell why it could not."""
        if self._journal is None:
            raise lost
        async with self._disk:
            if self._left:
                raise lost
            try:
                await anyio.to_thread.run_sync(self._journal.append, [_encode(entry)])
            except FileTrouble as exc:
                logger.error("nothing was written to the journal in HA_SESSION_STATE_DIR: it %s", exc)
                raise QuorumLost("no majority, and the journal cannot be written") from exc
            self.provisional.append(entry)

    async def run(self) -> None:
        """Make good what is provisional, until cancelled."""
        self._left = False
        if self._journal is not None:
            self._journal.hold()
        try:
            while True:
                if self.provisional:
                    await self._make_good([*self.provisional])
                with self._clock.move_on_after(MAKE_GOOD_EVERY_S):
                    await anyio.sleep_forever()
        finally:
            await self._close()

    async def _make_good(self, entries: Sequence[Entry]) -> None:
        try:
            await self._log.append(entries)
        except QuorumLost:
            return
        except EntryRejected as exc:  # and so is never to be made good
            logger.error("provisional log-outs: %s", exc)
        async with self._disk:
            made = set(entries)
            kept = [entry for entry in self.provisional if entry not in made]
            try:
                if self._journal is not None:
                    await anyio.to_thread.run_sync(self._journal.replace, [_encode(entry) for entry in kept])
            except FileTrouble as trouble:
                logger.error("nothing was written to the journal in HA_SESSION_STATE_DIR: it %s", trouble)
                return  # and tried again: what it holds is true still
            self.provisional = kept
        logger.info("%d provisional log-outs are held by a majority now", len(entries))

    async def _close(self) -> None:
        if self._journal is not None:
            with anyio.move_on_after(5, shield=True):
                async with self._disk:
                    self._left = True
                    self._journal.close()
