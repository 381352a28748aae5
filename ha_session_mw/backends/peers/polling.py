"""The polls of one node: keeps one under way to each other member, and adapts its time limit to the distance."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import anyio

from ..._core.calls.faults import PeerFaults
from ..._core.quorum.log import PAGE_ENTRIES, Quorum
from ..._core.quorum.membership import APART
from ..._core.quorum.messages import Answer, decode_answer, encode
from ..._core.quorum.ready import Ready, Sent
from ...abc import Clock, PeerFailure
from ..common.membered import moment_of
from .own_url import Call
from .pacing import PeerPace

POLL_SLACK_S = 0.5
"""How much longer a poll may take than the peer may hold it: a link's round trip, three times."""
MOST_SLACK_S = 2.0
"""The longest such time. A far peer gets three of its round trips, as polls have measured them."""

RETRY_S = 0.1
"""First pause before a peer that does not answer is polled again. Most faults of a link are over by then."""
MAX_RETRY_S = 1.0
"""Longest pause before a peer is polled again. Freshness depends on finding the peer soon after it is back."""


ASK_EVERY_S = 0.025
"""Shortest time from one question that must be answered at once to the next. All requests that wait share one."""


KEEP_S = 0.1
"""How long the next poll waits for the own disk, so that it acknowledges what the last answer brought. A disk takes some milliseconds."""


class PollFailed(Exception):
    """A poll brought nothing. The text tells operators why."""


class Polling:
    """Polls the other members for ever.

    Args:
        quorum: the state machine.
        call: calls a member.
        clock: the two clocks.
        heartbeat_s: how long a peer holds a poll.
        obey: does what the state machine asks for after news.
        wait_changed: returns after the next news.
        faults: counts the faults of the others.
        tell: takes a peer and why its last poll failed; None if it did not.
    """

    def __init__(
        self,
        quorum: Quorum,
        call: Call,
        *,
        clock: Clock,
        heartbeat_s: float,
        obey: Callable[[Ready], None],
        wait_changed: Callable[[], Awaitable[None]],
        faults: PeerFaults,
        tell: Callable[[str, str | None], None],
    ) -> None:
        self._quorum = quorum
        self._call = call
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._obey = obey
        self._wait_changed = wait_changed
        self._faults = faults
        self._tell = tell
        self._slack_s: dict[str, float] = {}
        self._heard: dict[str, anyio.Event] = {}
        self._paces = {peer: PeerPace(partial(faults.note, peer)) for peer in quorum.peers}
        self._asked = {peer: anyio.Event() for peer in quorum.peers}
        self._held: dict[str, anyio.CancelScope] = {}
        self._lives: dict[str, str] = {}

    def majority_limit_s(self) -> float:
        """Return how long the polls of the nearest majority may take."""
        nearest = sorted(self._slack_s.get(peer, POLL_SLACK_S) for peer in self._quorum.peers)
        return self._heartbeat_s + (nearest[min(self._quorum.majority, len(nearest)) - 1] if nearest else POLL_SLACK_S)

    def heard(self, peer: str, life: str) -> None:
        """Poll a peer now that did not answer before: it has polled this node, so it is back. So is one whose process is another."""
        if peer in self._heard and peer not in self._quorum.mismatched:
            self._heard[peer].set()
        if self._lives.get(peer, life) != life:
            self._give_up(peer)
        self._lives[peer] = life

    def _give_up(self, peer: str) -> None:
        """Poll a peer anew, because it will not answer the poll under way."""
        if peer in self._held:
            self._held[peer].cancel()

    async def poll_for_ever(self, peer: str) -> None:
        """Poll one member, again and again. The first poll after one that failed is to be answered at once."""
        retry_s = 0.0
        while True:
            begun_s, round_s = self._clock.boot_s(), None
            with anyio.CancelScope() as self._held[peer]:
                round_s = await self._poll(peer, at_once=retry_s > 0)
            if round_s is not None and peer not in self._quorum.mismatched:
                retry_s = 0.0
                await self._sleep(round_s - (self._clock.boot_s() - begun_s))
                await self._wait_kept(peer)
                await self._wait_turn(peer)
            else:
                retry_s = min(max(RETRY_S, retry_s * 2), MAX_RETRY_S)
                await self._pause(peer, retry_s)

    async def _wait_kept(self, peer: str) -> None:
        if self._quorum.recovering or self._quorum.has_kept(peer):
            return  # one that is recovering writes nothing to a file that no member has confirmed
        with self._clock.move_on_after(KEEP_S):
            while not self._quorum.has_kept(peer):
                await self._wait_changed()

    async def _wait_turn(self, peer: str) -> None:
        while self._quorum.reads_another_first(peer, moment_of(self._clock)):
            with self._clock.move_on_after(RETRY_S):
                await self._wait_changed()

    def ask(self, peers: Iterable[str]) -> None:
        """Ask members soon, and for an answer at once: something waits for what they know now."""
        for peer in peers:
            self._asked[peer].set()

    async def ask_for_ever(self, peer: str) -> None:
        """Ask one member whenever it is to be asked. The poll that it holds meanwhile goes on waiting for news, unless this one fails."""
        next_s = -math.inf
        while True:
            await self._asked[peer].wait()
            await self._sleep(next_s - self._clock.boot_s())  # not before it is asked again: a wait of its own would wake an idle node
            self._asked[peer] = anyio.Event()
            round_s = await self._poll(peer, at_once=True)
            if round_s is None:
                self._give_up(peer)
            next_s = self._clock.boot_s() + (RETRY_S if round_s is None else max(round_s, ASK_EVERY_S))

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            await self._clock.sleep(seconds)

    async def _pause(self, peer: str, seconds: float) -> None:
        """Wait before the next try. A poll of the peer cuts the wait short: it is back, and its log-outs wait for this node's poll."""
        heard = self._heard[peer] = anyio.Event()
        await self._sleep(RETRY_S)
        with self._clock.move_on_after(max(0.0, seconds - RETRY_S)):
            await heard.wait()

    async def _poll(self, peer: str, *, at_once: bool) -> float | None:
        """Poll once; return the shortest time of the round, None if it failed."""
        sent = self._quorum.poll(peer, moment_of(self._clock), at_once=at_once)
        try:
            answer = await self._ask(peer, sent)
        except PollFailed as failure:
            self._tell(peer, str(failure))
            return None
        known = self._quorum.position
        self._obey(self._quorum.answered(sent, answer, moment_of(self._clock)))
        now, news = moment_of(self._clock), self._quorum.position - known
        fresh = self._quorum.speaker.is_fresh(now)
        round_s = self._paces[peer].least_round_s(answer, news, now.boot_s, recovering=self._quorum.recovering, fresh=fresh)
        self._tell(peer, None)
        # A node whose list does not stand waits for an operator, or for the others.
        return max(round_s, self._heartbeat_s) if self._quorum.membership.stage == APART else round_s

    async def _ask(self, peer: str, sent: Sent) -> Answer:
        slack_s, held_s = self._slack_s.get(peer, POLL_SLACK_S), self._quorum.quiet_time.held_s(sent.poll)
        try:
            answer = decode_answer(await self._call(peer, "poll", encode(sent.poll), held_s + slack_s))
        except PeerFailure as failure:
            if failure.fault == "stalled":  # it may be far away, so the next poll has more time
                self._slack_s[peer] = min(2 * slack_s, MOST_SLACK_S)
            raise PollFailed(str(failure)) from failure
        except (ValueError, RecursionError) as exc:
            self._faults.note(peer, "garbage")
            raise PollFailed("answers in a form that this release cannot read") from exc
        round_trip_s = self._clock.boot_s() - sent.sent_s - held_s
        if round_trip_s > 0:  # the peer has held the poll for as long as it may
            self._slack_s[peer] = min(max(POLL_SLACK_S, 3 * round_trip_s), MOST_SLACK_S)
        if answer.size > PAGE_ENTRIES:
            self._faults.note(peer, "garbage")
            raise PollFailed("answers with more than a page")
        return answer
