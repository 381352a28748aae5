"""Push entries to members that do not fetch them, and say good-bye.

Mostly the others fetch a node's entries by their polls. A server that stops closes its listener first, and answers what is under way
afterwards: the log-outs among those would never leave the node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial

import anyio

from ..._core.calls.faults import PeerFaults
from ..._core.calls.rate_limit import RateLimiter
from ..._core.quorum.log import PUSH_ENTRIES, Quorum
from ..._core.quorum.messages import decode_poll, decode_push, encode
from ..._core.quorum.ready import Ready
from ...abc import Clock, PeerFailure
from ..common.membered import moment_of
from .own_url import Call
from .pacing import NEWS_AT_ONCE, NEWS_PER_S

PUSH_AFTER_S = 0.1
"""How long a log-out waits for the poll of a member before it is pushed there. A member that is well has a poll here all the time."""
PUSH_LIMIT_S = 1.0
"""Time limit of one push: a slow link's round trip, and the other's disk."""
KEEP_LIMIT_S = 0.5
"""How long the callee waits for its own disk before it acknowledges as much as it keeps."""
RETRY_S = 0.1
"""First pause after a push that failed."""
MAX_RETRY_S = 1.0
"""Longest pause after a push that failed."""

TRIES = 3
"""How often a node that leaves tries to reach a member that does not answer."""
HAND_OVER_S = 2.0
"""Time limit for handing the entries over before the good-bye. Orchestrators kill a process some 10 s after they ask it to end."""
GOOD_BYE_S = 1.0
"""Time limit of the good-byes. A member that hears none waits until the leases of this node are over, as after a crash."""


class Needed:
    """Whether a log-out waits for the others, so that entries are pushed which they do not fetch. One waits in each ``with`` block."""

    __slots__ = ("_arisen", "_waiting")

    def __init__(self) -> None:
        self._waiting = 0
        self._arisen = anyio.Event()

    def __enter__(self) -> None:
        self._waiting += 1
        self._arisen.set()

    def __exit__(self, *_: object) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._arisen = anyio.Event()

    async def arises(self) -> None:
        """Return once one waits."""
        await self._arisen.wait()


class Pushing:
    """The pushes of one node, and those of the others to it.

    Args:
        quorum: the state machine.
        call: calls a member.
        clock: the two clocks.
        obey: does what the state machine asks for after news.
        wait_changed: returns after the next news.
        faults: counts the faults of the others.

    Attributes:
        needed: entered while a log-out waits.
    """

    def __init__(
        self,
        quorum: Quorum,
        call: Call,
        *,
        clock: Clock,
        obey: Callable[[Ready], None],
        wait_changed: Callable[[], Awaitable[None]],
        faults: PeerFaults,
    ) -> None:
        self._quorum = quorum
        self._call = call
        self._clock = clock
        self._obey = obey
        self._wait_changed = wait_changed
        self._faults = faults
        self.needed = Needed()
        self._arriving: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._allowances: defaultdict[str, RateLimiter] = defaultdict(partial(RateLimiter, NEWS_PER_S, NEWS_AT_ONCE))

    async def _sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    # Log-outs that wait.

    async def push_for_ever(self, peer: str) -> None:
        """Push to one member whenever a log-out waits for it and it does not poll."""
        retry_s = RETRY_S
        while True:
            await self.needed.arises()
            if not self._quorum.wants_push(peer, moment_of(self._clock), after_s=PUSH_AFTER_S):
                await self._sleep(PUSH_AFTER_S)
            elif await self._push(peer):
                retry_s = RETRY_S
            else:
                await self._sleep(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)

    async def _push(self, peer: str) -> bool:
        """Push to a member; return whether it has answered."""
        push = encode(self._quorum.push(peer, moment_of(self._clock)))
        try:
            poll = decode_poll(await self._call(peer, "push", push, PUSH_LIMIT_S))
        except PeerFailure:
            return False
        except (ValueError, RecursionError):
            self._faults.note(peer, "garbage")
            return False
        self._obey(self._quorum.push_answered(peer, poll, moment_of(self._clock)))
        return True

    # Leaving.

    async def hand_over(self) -> None:
        """Return once every member that answers has all entries of this node, and has proven so."""
        while self._quorum.position > self._quorum.durable.position:
            await self._wait_changed()
        async with anyio.create_task_group() as tasks:
            for peer in self._quorum.peers:
                tasks.start_soon(self._hand_over_to, peer)

    async def _hand_over_to(self, peer: str) -> None:
        failures = 0
        while failures < TRIES and self._quorum.wants_push(peer, moment_of(self._clock), after_s=0.0):
            if not await self._push(peer):
                failures += 1
                await self._sleep(RETRY_S)

    async def say_good_bye(self) -> None:
        """Tell every member that answers that this node has left."""
        async with anyio.create_task_group() as tasks:
            for peer in self._quorum.peers:
                tasks.start_soon(self._say_good_bye_to, peer)

    async def _say_good_bye_to(self, peer: str) -> None:
        for _ in range(TRIES):
            if await self._push(peer):
                return
            await self._sleep(RETRY_S)

    # Pushes of others.

    async def on_push(self, body: bytes) -> bytes:
        """Take in a push of another member; acknowledge it by a poll, once it is kept."""
        try:
            push = decode_push(body)
        except (ValueError, RecursionError) as exc:
            raise ValueError("no push") from exc
        sender = push.answer.sender
        if sender not in self._quorum.peers or push.answer.size > PUSH_ENTRIES:
            raise ValueError("no push of a member")
        async with self._arriving[sender]:  # one after the other, so that a member that floods this node waits
            wait_s = self._allowances[sender].spend(push.answer.size, moment_of(self._clock).boot_s)
            if wait_s:
                await self._sleep(wait_s)
            self._obey(self._quorum.pushed(push, moment_of(self._clock)))
        with self._clock.move_on_after(KEEP_LIMIT_S):
            while not self._quorum.has_kept(sender):
                await self._wait_changed()
        return encode(self._quorum.poll(sender, moment_of(self._clock)).poll)
