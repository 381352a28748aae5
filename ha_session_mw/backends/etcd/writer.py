"""Write entries into etcd, in batches, until each is written or etcd rejects it for good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import anyio

from ..._core.calls.rate_limit import RateLimiter
from ..._core.ordered.keys import gives_way
from ..common.outbox import Outbox, Ticket
from .api import EtcdError, EtcdRejected, put, put_if_absent
from .heartbeats import beat_with
from .process import AGAIN_S, Process, logger

BATCH = 100
"""Entries in one transaction. etcd accepts up to 128 operations."""
REJECTIONS = 3
"""How often etcd must reject an entry, alone, before it is given up. A fault on the way may have garbled the first request."""
WRITES_PER_S = 50
"""Transactions per second in the long run, unless they are full. Three members of etcd take 1.4 ms of a processor for each, and a tenth
of that for each entry."""
MANY, STORM_TURNS = 8, 3
"""After a transaction with so many entries, the next one waits for so many turns. In a storm of log-outs, each takes those of 60 ms
together."""
WRITES_AT_ONCE = 25
"""Transactions without a pause, after it was quiet: a single log-out waits for no turn."""
SINGLE = 8
"""Largest log-out that is written ahead of larger ones: a person waits for a small one, a job for a large one."""
MAX_RECORD_BYTES = 256 * 1024
"""Longest value that this process asks etcd to take. A token has at most 4096 bytes, so no id or subject comes near. etcd accepts
1.5 MB, but not always in time."""


class Outboxes:
    """Entries that are not written yet. They outlive the process that could not write them, if it starts again.

    Attributes:
        singles: the entries of small log-outs.
        jobs: the entries of large ones.
    """

    def __init__(self) -> None:
        self.singles, self.jobs = Outbox(gives_way), Outbox(gives_way)

    def put(self, records: Mapping[bytes, bytes]) -> Ticket:
        """Add entries to be written, and return their ticket. Entries that are too long for etcd are rejected at once."""
        box = self.singles if len(records) <= SINGLE else self.jobs
        ticket = box.put(records)
        for key, value in records.items():
            if len(value) > MAX_RECORD_BYTES:
                _reject(box, key, "is not asked to take it")
        return ticket

    def __contains__(self, key: bytes) -> bool:
        return key in self.singles or key in self.jobs

    def __len__(self) -> int:
        return len(self.singles) + len(self.jobs)


class Writer:
    """Writes the entries of a process.

    Args:
        process: what the tasks of this process share.
        outboxes: hold the entries.
        expect: takes the position of each transaction that etcd has written.
        beating: held while a try of a heartbeat is under way.
    """

    def __init__(self, process: Process, outboxes: Outboxes, expect: Callable[[int], None], beating: anyio.Lock) -> None:
        self._process = process
        self._outboxes = outboxes
        self._expect = expect
        self._beating = beating
        self._rejections: dict[bytes, int] = {}

    async def write_for_ever(self, box: Outbox) -> None:
        """Write what comes into one outbox; try again after each failure. Stop for good at a rollback."""
        troubles, clock = self._process.troubles, self._process.clock
        pace = RateLimiter(WRITES_PER_S, WRITES_AT_ONCE)
        written = 0
        while True:
            await box.filled()
            if len(box) < BATCH and (wait_s := pace.spend(STORM_TURNS if written >= MANY else 1, clock.boot_s())):
                await clock.sleep(wait_s)
            if self._process.is_set_back:
                await anyio.sleep_forever()
            records = box.batch(BATCH)
            written = len(records)
            try:
                await self._write(box, records)
            except EtcdError as exc:
                troubles.failed("writing", str(exc))
                await clock.sleep(AGAIN_S)
            else:
                troubles.works("writing")

    async def flush(self) -> None:
        """Write everything that is left.

        Raises:
            EtcdError: etcd did not answer, or refused. The rest stays in the outboxes.
        """
        for box in (self._outboxes.singles, self._outboxes.jobs):
            while box and not self._process.is_set_back:
                await self._write(box, box.batch(BATCH))

    async def _write(self, box: Outbox, records: Mapping[bytes, bytes]) -> None:
        """Write records in one transaction; split a rejected one until the record to blame is known."""
        try:
            # A replaced id that was logged out must not lose that again.
            puts = [(put_if_absent if gives_way(value) else put)(key, value) for key, value in records.items()]
            done = await beat_with(self._process, puts, self._beating) or await self._process.gateway.transact(puts)
        except EtcdRejected as exc:
            if len(records) == 1:
                [key] = records
                self._count_rejection(box, key, str(exc))
                return
            for half in _halves(records):
                await self._write(box, half)
        else:
            box.written(records, done.header.revision)
            self._expect(done.header.revision)
            if self._rejections:
                self._rejections = {key: count for key, count in self._rejections.items() if key not in records}

    def _count_rejection(self, box: Outbox, key: bytes, why: str) -> None:
        """Give an entry up if etcd has rejected it often enough. Otherwise it stays in its outbox, and is written again."""
        count = self._rejections.pop(key, 0) + 1
        if count < REJECTIONS:
            self._rejections[key] = count
        else:
            _reject(box, key, why)


def _reject(box: Outbox, key: bytes, why: str) -> None:
    logger.error("etcd %s: an entry with a name of %d bytes is enforced by this process only", why, len(key))
    box.reject(key)


def _halves(records: Mapping[bytes, bytes]) -> Iterable[dict[bytes, bytes]]:
    """Return two parts of a rejected batch. A record longer than all others together is most likely to blame, and goes alone."""
    items = sorted(records.items(), key=_length)
    middle = len(items) - 1 if 2 * _length(items[-1]) > sum(map(_length, items)) else len(items) // 2
    return dict(items[:middle]), dict(items[middle:])


def _length(record: tuple[bytes, bytes]) -> int:
    return len(record[0]) + len(record[1])
