"""``etcd://``: the records of the cluster on etcd. The version of a record is the revision at which it was written.

A record consists of three keys, written in one transaction. The first holds the content. The second holds nothing: its revision tells all
nodes of the new version without sending them the content. The third lists the record below its subject. The keys lie outside the prefix of
the log, because etcd sends followers of the log everything below that prefix.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from hashlib import blake2b
from itertools import compress
from typing import TypeVar

import anyio
import msgspec
from msgspec.structs import replace

from ...abc import MAX_RECORD_BYTES, Clock, Conflict, Grant, OnGap, OnNewer, Record, SessionStore, ignore
from ...exceptions import LockLost, StoreUnavailable
from ...version import ETCD_RECORD
from ..common.trouble import Troubles
from .api import (
    EtcdCompacted,
    EtcdError,
    EtcdRejected,
    EtcdUnavailable,
    KeyValue,
    Operation,
    Transaction,
    Watched,
    delete,
    end_of,
    put,
    unchanged_since,
)
from .gateway import EtcdGateway
from .locks import guard_of

logger = logging.getLogger("ha_session_mw.etcd")

LIMIT_S = 3.0
"""How long a request waits while etcd works. An election after a killed leader took 2.3 s, and a request should outlast one."""
LIMIT_IN_TROUBLE_S = 1.0
"""How long a request waits if etcd did not answer the last one. Every request would otherwise stall for the full limit."""
AGAIN_S = 0.2
"""Pause after a watch has failed, so that watches that fail at once do not load etcd."""
LEASE_STEP_S = 3600
"""Keys of records that end within the same hour share one etcd lease. etcd deletes them when it expires."""
LOOKED_FOR = 100
"""Records that are looked for in one transaction. etcd accepts up to 128 operations."""
AT_ONCE = 16
"""How many records of a list are read at the same time."""

T = TypeVar("T")


class _Value(msgspec.Struct, frozen=True, array_like=True):
    """The stored form of a record. By ``nonce``, a writer whose answer was lost recognizes its own write."""

    format: int
    until_ms: int
    subject: str | None
    nonce: bytes
    content: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Value).decode


class EtcdStore(SessionStore):
    """The records of one kind, as one process reads and writes them.

    Args:
        clock: the two clocks.
        gateway: calls etcd. No other service uses it.
        prefix: the prefix of the cluster's keys.
        kind: the kind of the records, which is part of their keys.
        random: returns n random bytes.
        on_newer: called with each change of a record.
        on_gap: called when changes may have been missed.
    """

    def __init__(
        self,
        clock: Clock,
        gateway: EtcdGateway,
        prefix: str,
        kind: str,
        random: Callable[[int], bytes],
        *,
        on_newer: OnNewer = ignore,
        on_gap: OnGap = ignore,
    ) -> None:
        self.max_bytes = MAX_RECORD_BYTES
        self._clock = clock
        self._gateway = gateway
        self._random = random
        self._on_newer, self._on_gap = on_newer, on_gap
        self._locks = prefix
        self._prefix = f"{prefix}.records/{kind}/".encode()
        self._versions = self._prefix + b"version/"
        self._position = 0
        self._leases: dict[int, int] = {}
        self._troubles = Troubles(logger)

    def _content_key(self, id: str) -> bytes:
        return self._prefix + b"content/" + id.encode()

    def _subject_keys(self, subject: str) -> bytes:
        return self._prefix + b"subject/" + blake2b(subject.encode(), digest_size=16).hexdigest().encode() + b"/"

    def _keys(self, id: str, subject: str | None) -> list[bytes]:
        keys = [self._content_key(id), self._versions + id.encode()]
        return keys if subject is None else [*keys, self._subject_keys(subject) + id.encode()]

    # Reading

    async def get(self, id: str) -> Record | None:
        return await self._asked(self._get(id))

    async def _get(self, id: str) -> Record | None:
        found = await self._read_record(id)
        return found and found[0]

    async def _read_record(self, id: str) -> tuple[Record, bytes] | None:
        """Return a record, and the nonce of its writer."""
        key = self._content_key(id)
        page = await self._gateway.page(key, key + b"\0", limit=1)
        return self._record_of(id, page.kvs[0]) if page.kvs else None

    def _record_of(self, id: str, pair: KeyValue) -> tuple[Record, bytes]:
        try:
            value = _decode(pair.value)
            if value.format not in ETCD_RECORD.reads:
                raise msgspec.ValidationError("another format")
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            raise StoreUnavailable("etcd holds a record of another release, or somebody else's, below the prefix") from exc
        return Record(id, value.content, value.until_ms, value.subject, pair.mod_revision), value.nonce

    async def of_subject(self, subject: str, *, after: str = "", limit: int = 100) -> Sequence[Record]:
        return await self._asked(self._of_subject(subject, after, limit))

    async def _of_subject(self, subject: str, after: str, limit: int) -> list[Record]:
        found: list[Record] = []
        start, end = self._subject_keys(subject), end_of(self._subject_keys(subject))
        begin, more = start + after.encode() + b"\0" if after else start, True
        while more and len(found) < limit:
            page = await self._gateway.page(begin, end, limit=limit - len(found))
            ids = [pair.key[len(start) :].decode() for pair in page.kvs]
            # A record that has changed its subject, or was deleted meanwhile, is left out.
            found += [record for record in await self._get_all(ids) if record is not None and record.subject == subject]
            more = page.more
            begin = page.kvs[-1].key + b"\0" if page.kvs else begin
        return found

    async def _get_all(self, ids: Sequence[str]) -> list[Record | None]:
        found: dict[str, Record | None] = {}
        at_once = anyio.CapacityLimiter(AT_ONCE)
        failures: list[Exception] = []

        async def get(id: str) -> None:
            async with at_once:
                try:
                    found[id] = await self._get(id)
                except (EtcdError, StoreUnavailable) as exc:
                    failures.append(exc)

        async with anyio.create_task_group() as tasks:
            for id in ids:
                tasks.start_soon(get, id)
        if failures:
            raise failures[0]
        return [found[id] for id in ids]

    # Writing

    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        record.require_length(self.max_bytes)
        held = [guard_of(self._locks, guard)] if guard is not None else ()
        return await self._asked(self._put(record, held))

    async def _put(self, record: Record, held: Sequence[Mapping[str, object]]) -> Record:
        nonce = self._random(12)
        value = _encode(_Value(ETCD_RECORD.writes, record.until_ms, record.subject, nonce, record.content))
        compare = [unchanged_since(self._content_key(record.id), record.version), *held]
        done = await self._transact(record, value, compare)
        if done.succeeded:
            return replace(record, version=done.header.revision)
        # An earlier try of this transaction may have been applied, and its answer lost. The nonce tells.
        found = await self._read_record(record.id)
        if found is not None and found[1] == nonce:
            return replace(record, version=found[0].version)
        current = found[0] if found is not None else None
        if held and (current.version if current else 0) == record.version:
            raise LockLost("the lock was released, or its lease is over")
        raise Conflict(current)

    async def _transact(self, record: Record, value: bytes, compare: Sequence[Mapping[str, object]]) -> Transaction:
        end_s = math.ceil(record.until_ms / 1000 / LEASE_STEP_S) * LEASE_STEP_S
        for again in (True, False):
            lease = await self._lease(end_s)
            content, *others = self._keys(record.id, record.subject)
            operations = [put(content, value, lease=lease), *(put(key, b"", lease=lease) for key in others)]
            try:
                return await self._gateway.transact(operations, compare=compare)
            except EtcdRejected:
                if not again:
                    raise
                self._leases.pop(end_s, None)  # etcd may have lost the lease
        raise AssertionError("the second try returns or raises")

    async def _lease(self, end_s: int) -> int:
        """The lease of the records that end in an hour. It only cleans up, an hour later and more: the end itself is in the record."""
        lease = self._leases.get(end_s)
        if lease is None:
            left_s = max(0, end_s - int(self._clock.wall_s()))
            lease = self._leases[end_s] = (await self._gateway.grant_lease(left_s + LEASE_STEP_S)).id
        return lease

    async def delete(self, id: str) -> None:
        await self._asked(self._delete(id))

    async def delete_all(self, ids: Collection[str]) -> None:
        left = [*ids]
        while left:
            some, left = left[:LOOKED_FOR], left[LOOKED_FOR:]
            # Most sessions have their data in the token, and no record.
            exist = await self._asked(self._gateway.exist([*map(self._content_key, some)]))
            for id in compress(some, exist):
                await self.delete(id)

    async def _delete(self, id: str) -> None:
        try:
            current = await self._get(id)
        except StoreUnavailable:  # written by another release: the lease deletes the key below the subject later
            current = Record(id, b"", 0)
        if current is not None:
            operations: list[Operation] = [delete(key) for key in self._keys(id, current.subject)]
            await self._gateway.transact(operations)

    async def _asked(self, call: Awaitable[T]) -> T:
        """Return the result of a call to etcd. Log trouble once, and raise the port's error."""
        try:
            with self._clock.move_on_after(LIMIT_IN_TROUBLE_S if self._troubles.current else LIMIT_S) as limit:
                found = await call
            if limit.cancelled_caught:
                raise EtcdUnavailable("does not answer in time")
        except EtcdError as exc:
            line = "etcd %s; session data on it cannot be reached until then"
            self._troubles.begin("records", str(exc), line, exc, level=logging.ERROR)
            raise StoreUnavailable(f"etcd {exc}") from exc
        self._troubles.end("records", "session data on etcd can be reached again", level=logging.WARNING)
        return found

    def trouble(self) -> str | None:
        why = self._troubles.current.get("records")
        return why and f"etcd {why}"

    # Changes by other processes

    async def run(self) -> None:
        self._leases.clear()
        self._position = 0
        async with self._gateway.opened():
            while True:
                try:
                    await self._follow()
                except EtcdCompacted:
                    self._position = 0  # etcd no longer has the changes since this position
                except EtcdError:
                    await self._clock.sleep(AGAIN_S)

    async def _follow(self) -> None:
        """Follow each change after the position. A watch ends when it has had no news for a while, and the caller opens it again."""
        end = end_of(self._versions)
        if not self._position:
            self._position = (await self._gateway.page(self._versions, end, limit=1)).header.revision
            self._on_gap()  # reads from here on are no older than the position
        await self._gateway.watch(self._versions, end, self._position + 1, self._tell_all)

    def _tell_all(self, message: Watched) -> None:
        for event in message.events:
            self._tell(event.kv, 0 if event.is_deletion else event.kv.mod_revision)
        if message.events:
            self._position = max(event.kv.mod_revision for event in message.events)

    def _tell(self, pair: KeyValue, version: int) -> None:
        self._on_newer(pair.key[len(self._versions) :].decode(errors="replace"), version)
