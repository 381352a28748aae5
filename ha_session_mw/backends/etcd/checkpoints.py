"""Write checkpoints of a long log into etcd, and read them: a new node reads some hundred keys instead of one for each denial.

The live node whose name comes first writes them. If two take themselves for that one, the transaction of one of them fails.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import count, islice

import anyio
import anyio.lowlevel

from ..._core.ordered.checkpoints import (
    LEAST,
    MOST_UNCOVERED,
    SEGMENT,
    Checkpoint,
    Segment,
    Uncovered,
    continued,
    decode_checkpoint,
    decode_segment,
    digest_of_key,
    encode_checkpoint,
    encode_segment,
)
from ..._core.ordered.loading import PIECE, Loading
from ...models import Deny, Entry
from .api import EtcdCompacted, EtcdError, EtcdRefused, EtcdRejected, KeyValue, delete, end_of, put, unchanged_since
from .gateway import SCAN_S
from .process import Process, logger

LOOK_S = 5.0
"""How often a node looks whether a checkpoint is due."""
EVERY_S = 120.0
"""How old a checkpoint becomes. A new node reads all heartbeats since then: some hundred for each node."""
NEWEST_S = 3.0
"""How long a node waits for a heartbeat with which a checkpoint can begin. One comes each half second."""
READ_AT_ONCE = 2
"""Segments that are read in one page: half a megabyte. Larger pages leave larger holes in the memory of the node that reads them."""
DELETED_AT_ONCE = 100
"""Segments that are deleted in one transaction. etcd accepts up to 128 operations."""


def _digest_of(pair: KeyValue) -> bytes:
    return digest_of_key(pair.key, pair.value, pair.create_revision, pair.mod_revision)


class CheckpointReader:
    """Reads the present checkpoint.

    Args:
        process: what the tasks of this process share.
        revision: as of which it is read.
    """

    def __init__(self, process: Process, revision: int) -> None:
        self._gateway, self._keys = process.gateway, process.keys
        self._view = process.ordered.view
        self._revision = revision
        self.newest = KeyValue()
        """The key that was written at the checkpoint's position."""

    async def read(self, loading: Loading) -> Checkpoint | None:
        """Have its denials taken in, and return it; None if there is none that can be used. Then the log must be loaded as a whole."""
        try:
            found = await self._find()
            if found is not None and await self._read_segments(found, loading):
                return found
        except (EtcdCompacted, EtcdRejected, EtcdRefused, ValueError) as exc:
            logger.warning("the checkpoint in etcd cannot be used, so all keys of the log are read: %s", type(exc).__name__)
        return None

    async def _find(self) -> Checkpoint | None:
        pairs = await self._one(self._keys.checkpoint, self._revision)
        if not pairs:
            return None
        found = decode_checkpoint(pairs[0].value)
        # Another history, restored or copied, has another key there, or none. If the history is gone, etcd refuses to answer.
        newest = await self._one(found.newest_key, found.position)
        if not newest or newest[0].mod_revision != found.position or _digest_of(newest[0]) != found.newest:
            return None
        self.newest = newest[0]
        return found

    async def _one(self, key: bytes, revision: int) -> Sequence[KeyValue]:
        return (await self._gateway.page(key, key + b"\0", revision=revision)).kvs

    async def _read_segments(self, found: Checkpoint, loading: Loading) -> bool:
        missing = {segment.name: segment.count for segment in found.segments}
        loading.expect(sum(missing.values()))
        start, end = self._keys.segments, end_of(self._keys.segments)
        while True:
            page = await self._gateway.page(start, end, revision=self._revision, limit=READ_AT_ONCE, least_s=SCAN_S)
            for pair in page.kvs:
                count = missing.pop(pair.key[len(self._keys.segments) :].decode(errors="replace"), None)
                if count is None:
                    continue  # an earlier checkpoint's, or one that a node did not finish
                denials = decode_segment(pair.value)
                if len(denials) != count:
                    raise ValueError("a segment has another number of denials")
                rest = iter(denials)
                while piece := [*islice(rest, PIECE)]:
                    loading.take_packed(piece)
                    await anyio.lowlevel.checkpoint()
            if not page.more:
                return not missing
            start = page.kvs[-1].key + b"\0"


class CheckpointWriter:
    """Writes checkpoints while a node runs.

    Args:
        process: what the tasks of this process share.
        uncovered: the denials that the process has read since the newest checkpoint.
        newest: returns the newest of all keys that the process has read.
        others: returns the names of the other live members.
    """

    def __init__(self, process: Process, uncovered: Uncovered, newest: Callable[[], KeyValue], others: Callable[[], Iterable[str]]) -> None:
        self._process = process
        self._gateway, self._keys, self._ordered = process.gateway, process.keys, process.ordered
        self._uncovered = uncovered
        self._newest = newest
        self._others = others
        self._numbers = count()
        self._due_s = 0.0
        self._held = 0
        """How many denials the newest checkpoint has, as far as this process has seen one."""
        self._is_tidy = False
        """Whether there are no segments but those of the newest checkpoint, as far as this process knows."""

    async def write_for_ever(self) -> None:
        """Write a checkpoint whenever one is due."""
        while True:
            with self._process.clock.move_on_after(LOOK_S):
                await anyio.sleep_forever()
            if not self._is_due():
                continue
            try:
                await self.write()
            except (EtcdError, ValueError) as exc:
                # A release that follows this one may have written it. Nothing depends on a checkpoint.
                logger.info("no checkpoint was written to etcd (%s); a node that starts reads the whole log", type(exc).__name__)
                self._due_s = self._process.clock.boot_s() + EVERY_S
                self._is_tidy = False

    def _is_due(self) -> bool:
        ordered = self._ordered
        if max(len(ordered.view.denied), self._held) < LEAST or not self._can_speak() or ordered.catching_up:
            return False
        if ordered.members.own.member > min(self._others(), default=ordered.members.own.member):
            return False
        return self._process.clock.boot_s() >= self._due_s or len(self._uncovered) > MOST_UNCOVERED // 2

    def _can_speak(self) -> bool:
        """Return whether this process has all that the log had at the position that it has applied."""
        ordered = self._ordered
        return not (ordered.needs_load or ordered.is_doubtful or ordered.left or ordered.rolled_back) and ordered.is_fresh(
            self._process.now()
        )

    async def write(self) -> None:
        """Write a checkpoint as of now.

        Raises:
            EtcdError: etcd did not answer, or refused. The present checkpoint stays.
            ValueError: another release wrote the present checkpoint.
        """
        with self._process.clock.move_on_after(NEWEST_S):
            while self._newest().mod_revision != self._ordered.position:
                await self._process.wait_changed()
        newest, ordered = self._newest(), self._ordered
        if newest.mod_revision != ordered.position or not self._can_speak() or ordered.log is None:
            return
        # All of this is as of one position. The view may have more than the log, and gets more while it is read, which does no harm.
        log, position, digest = ordered.log.id, ordered.position, ordered.entries.digest.last
        page = await self._gateway.page(self._keys.checkpoint, self._keys.checkpoint + b"\0")
        known, revision = (decode_checkpoint(page.kvs[0].value), page.kvs[0].mod_revision) if page.kvs else (None, 0)
        floor_ms = ordered.view.floor_ms
        going_on = continued(known, log, self._uncovered, position, live=len(ordered.view.denied), floor_ms=floor_ms)
        if going_on is None:
            if self._process.clock.boot_s() < self._due_s:
                return  # in a storm of log-outs, not all of them are written anew every few seconds
            segments = [segment async for segment in self._write_segments(self._denials())]
            floor_ms = ordered.view.floor_ms  # what ended meanwhile may be missing
        else:
            kept, news = going_on
            segments = [*kept, *[segment async for segment in self._write_segments(news)]]
        checkpoint = Checkpoint(
            log=log,
            position=position,
            newest_key=newest.key,
            newest=_digest_of(newest),
            digest=digest,
            floor_ms=max(floor_ms, known.floor_ms) if known is not None and known.log == log else floor_ms,
            segments=tuple(segments),
        )
        if not self._can_speak():
            return
        done = await self._gateway.transact(
            [put(self._keys.checkpoint, encode_checkpoint(checkpoint))],
            compare=[unchanged_since(self._keys.checkpoint, revision)],
            once=True,
        )
        self._due_s = self._process.clock.boot_s() + EVERY_S
        if not done.succeeded:
            self._is_tidy = False
            return
        self._uncovered.cover(position)
        self._held = checkpoint.count
        if not self._is_tidy or (known is not None and {*known.segments} - {*segments}):
            await self._tidy(checkpoint, done.header.revision)
            self._is_tidy = True

    def _denials(self) -> Iterable[Deny]:
        entries: Iterable[Entry] = self._ordered.view.entries()
        return (entry for entry in entries if isinstance(entry, Deny))

    async def _write_segments(self, denials: Iterable[Deny]) -> AsyncIterator[Segment]:
        rest = iter(denials)
        while True:
            some: list[Deny] = []
            while len(some) < SEGMENT and (piece := [*islice(rest, min(PIECE, SEGMENT - len(some)))]):
                some += piece
                await anyio.lowlevel.checkpoint()
            if not some:
                return
            name = f"{self._ordered.slot.rpartition('/')[2]}-{next(self._numbers)}"
            await self._gateway.transact([put(self._keys.segments + name.encode(), encode_segment(some))])
            yield Segment(name, len(some), max(denial.until_ms for denial in some))

    async def _tidy(self, checkpoint: Checkpoint, revision: int) -> None:
        """Delete all segments but those of a checkpoint, as long as it is the present one."""
        names = {segment.name for segment in checkpoint.segments}
        start, end = self._keys.segments, end_of(self._keys.segments)
        while True:
            page = await self._gateway.page(start, end, limit=DELETED_AT_ONCE, names_only=True)
            old = [delete(pair.key) for pair in page.kvs if pair.key[len(self._keys.segments) :].decode(errors="replace") not in names]
            if old:
                await self._gateway.transact(old, compare=[unchanged_since(self._keys.checkpoint, revision)])
            if not page.more:
                return
            start = page.kvs[-1].key + b"\0"
