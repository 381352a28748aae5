"""Put this process's heartbeat into etcd, over and over. Reading it back from the log renews the lease.

In a storm of log-outs it travels with the entries of this process. While etcd has no space, looks at the log renew the lease instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel

from ..._core.ordered.keys import encode_beat
from ..._core.ordered.log import Ordered
from .api import EtcdError, EtcdFull, Operation, Transaction, put
from .looks import Looks
from .process import Process


class Alarm:
    """Rings when the next heartbeat is due earlier than it was. Most news do not change that, and wake nobody here.

    Args:
        ordered: says when it is due.
    """

    def __init__(self, ordered: Ordered) -> None:
        self._ordered = ordered
        self._awaited_s = -math.inf
        self._rung = anyio.Event()

    def look(self) -> None:
        """Ring if it is due earlier. Called after each change."""
        if self._ordered.due_s < self._awaited_s:
            self._rung.set()

    async def rings(self) -> None:
        """Return once it is due earlier than now."""
        self._awaited_s, self._rung = self._ordered.due_s, anyio.Event()
        await self._rung.wait()


async def beat_for_ever(process: Process, expect: Callable[[int], None], beating: anyio.Lock, alarm: Alarm) -> None:
    """Put a heartbeat whenever the state machine says that one is due.

    Args:
        process: what the tasks of this process share.
        expect: takes the position of each heartbeat that etcd has written.
        beating: held while a try is under way.
        alarm: rings when one is due earlier.
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
            await alarm.rings()


async def _beat(process: Process, expect: Callable[[int], None]) -> bool:
    """Put one heartbeat; return False if etcd has no space for it."""
    try:
        done = await _put(process, ())
    except EtcdError as exc:
        process.troubles.failed("taking beats", str(exc))
        return not isinstance(exc, EtcdFull)
    expect(done.header.revision)
    return True


async def beat_with(process: Process, puts: Sequence[Operation], beating: anyio.Lock) -> Transaction | None:
    """Write entries, and a heartbeat in the same transaction if news of others wait for one.

    That takes etcd, and all processes that watch it, less time than two transactions.

    Args:
        process: what the tasks of this process share.
        puts: write the entries, and do no harm if they are done twice.
        beating: held while a try is under way.

    Returns:
        None if no heartbeat is wanted now, or the try has failed. The entries are to be written without one then.
    """
    if not process.ordered.own_beats.hurried or process.ordered.due_s == math.inf:
        return None
    try:
        beating.acquire_nowait()
    except anyio.WouldBlock:  # no log-out waits for the try of a heartbeat
        return None
    try:
        return await _put(process, puts)
    except EtcdError:
        return None
    finally:
        beating.release()


async def _put(process: Process, puts: Sequence[Operation]) -> Transaction:
    sent = process.ordered.beat(process.now())
    # A try is never cancelled: a heartbeat written after this process has deleted its key would keep others waiting for it.
    with anyio.CancelScope(shield=True):
        done = await process.gateway.transact([*puts, put(process.heartbeat_key, encode_beat(sent.beat))], once=True)
    for what in ("taking beats", "looking"):
        process.troubles.works(what)
    process.obey(process.ordered.answered(sent, done.header.revision))
    return done
