"""Delete the keys that no process needs any more: ended entries, and the heartbeats of processes that are long gone."""

from __future__ import annotations

from ..._core.ordered.keys import encode_floor
from ..._core.ordered.ready import Ready
from .api import delete, put, unchanged_since, value_below
from .gateway import EtcdGateway
from .keys import Keys

DELETED_AT_ONCE = 1000
"""Keys that are deleted in one transaction. Every watcher receives all of them in one message."""


async def tidy(gateway: EtcdGateway, keys: Keys, due: Ready) -> None:
    """Do the deletions that are due by the state machine.

    Raises:
        EtcdError: etcd did not answer, or refused. The remaining work is due again.
    """
    if due.floor_ms is not None:
        await _store_floor(gateway, keys, due.floor_ms)
    for slot, position in due.remove:
        key = keys.slot(slot)
        # A process that was heard again meanwhile keeps its heartbeat.
        await gateway.transact([delete(key)], compare=[unchanged_since(key, position)])


async def _store_floor(gateway: EtcdGateway, keys: Keys, floor_ms: int) -> None:
    """Store the floor, and delete what ended at or below it. The process whose transaction succeeds does so for all."""
    value = encode_floor(floor_ms)
    done = await gateway.transact([put(keys.floor, value)], compare=[value_below(keys.floor, value)])
    if done.succeeded:
        for start, end in keys.ended(floor_ms):
            await _delete_range(gateway, start, end)


async def _delete_range(gateway: EtcdGateway, start: bytes, end: bytes) -> None:
    while (page := await gateway.page(start, end, limit=DELETED_AT_ONCE)).kvs:
        await gateway.transact([delete(start, page.kvs[-1].key + b"\0")])
        if not page.more:
            return
