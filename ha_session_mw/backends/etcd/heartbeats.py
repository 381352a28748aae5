"""Put this process's heartbeat into etcd, over and over. Reading it back from the log renews the lease.

While etcd has no space, looks at the log renew it instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
import anyio.lowlevel

from ..._core.ordered.keys import encode_beat
from .api import EtcdError, EtcdFull, put
from .looks import Looks
from .process import Process


async def beat_for_ever(process: Process, expect: Callable[[int], None], beating: anyio.Lock) -> None:
    """Put a heartbeat whenever the state machine says that one is due.

    Args:
        process: what the tasks of this process share.
        expect: takes the position of each heartbeat that etcd has written.
        beating: held while a try is under way.
    """
    looks = Looks(process)
    while True:
        await anyio.lowlevel.checkpoint()  # a heartbeat cannot be cancelled, and one follows on another while etcd does not answer
        left_s = process.ordered.due_s - process.clock.boot_s()
        if left_s <= 0:
            async with beating:
                # The process may have left while this task waited.
                if process.ordered.due_s < math.inf and not await _beat(process, expect):
                    await looks.look()
            continue
        with process.clock.move_on_after(left_s):
            await process.wait_changed()


async def _beat(process: Process, expect: Callable[[int], None]) -> bool:
    """Put one heartbeat; return False if etcd has no space for it."""
    sent = process.ordered.beat(process.now())
    try:
        # A try is never cancelled: a heartbeat written after this process has deleted its key would keep others waiting for it.
        with anyio.CancelScope(shield=True):
            done = await process.gateway.transact([put(process.heartbeat_key, encode_beat(sent.beat))], once=True)
    except EtcdError as exc:
        process.troubles.failed("taking beats", str(exc))
        return not isinstance(exc, EtcdFull)
    for what in ("taking beats", "looking"):
        process.troubles.works(what)
    process.obey(process.ordered.answered(sent, done.header.revision))
    expect(done.header.revision)
    return True
