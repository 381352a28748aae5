"""The driver of ``peers://``: obeys the state machine of ``_core/quorum/log.py``, and waits for majorities.

The state machine has the rules. :mod:`.polling` carries its polls, and :mod:`.answering` those of the others. :mod:`.pushing` carries what
nobody fetches, :mod:`.batch_writer` keeps the file, and :mod:`.reports` tells operators.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import anyio

from ..._core.calls.faults import PeerFaults
from ..._core.cluster.members import Heartbeat, Members
from ..._core.cluster.view import View
from ..._core.quorum.log import Quorum
from ..._core.quorum.ready import OldFile, QuorumEvent, Ready, Recovered
from ..._core.quorum.ready import Receipt as Appended
from ..._core.tally import Tally
from ..._core.ticks import until_tick_s
from ...abc import Clock, OnEvent, Receipt
from ...events import PossibleLoss
from ...exceptions import ConfigurationError, QuorumLost
from ...models import Cut, Entry, KeyId
from ..common.membered import DRAINING, MemberedLog, parse_index
from ..common.watermark import Watermark
from ..common.witness import Witness
from .answering import Answering
from .batch_file import FILE, BatchFile
from .batch_writer import BatchWriter
from .list_texts import why_not_serving
from .own_url import Call, OwnUrl
from .polling import Polling
from .pushing import GOOD_BYE_S, HAND_OVER_S, Pushing
from .reports import Reports

logger = logging.getLogger("ha_session_mw.quorum")

DURABLE_LIMIT_S = 1.0
"""How long an append waits for a majority that is silent. A majority that is well takes milliseconds."""
DURABLE_LIMIT_BUSY_S = 5.0
"""How long an append waits while a majority goes on polling: disks and machines are busy, and nobody is out of contact."""
DURABLE_LIMIT_ALONE_S = 0.25
"""How long an append waits if no majority has polled this node lately: one will hardly come back within the wait. Nor will a full disk
empty itself, so an append waits no longer for a file that could not be written."""

EXPOSED = (
    "log-outs are kept in memory only: if a majority of the members restarts at once, acknowledged log-outs are lost; "
    "set HA_SESSION_CLUSTER=peers:///path/of/a/file"
)


class QuorumLog(MemberedLog):
    """One member's log.

    Args:
        view: the entries that this node knows.
        clock: the two clocks.
        own: the heartbeat's constant parts.
        urls: all members, this one included, in the order of ``HA_SESSION_PEERS``.
        heartbeat_s: how long a poll is held.
        call: calls another member.
        faults: counts the faults of the others, in addition to those that the calls count.
        coming: all members of the next list, in the order of ``HA_SESSION_PEERS_NEXT``; empty while no change is under way.
        file: where entries are kept; None where they are kept in memory only.
        witness: remembers across restarts how far the file went; None without a file.
        on_event: takes each event of the cluster.

    Attributes:
        quorum: the state machine.
        polling: polls the other members.
        answering: answers their polls.
        pushing: carries entries to members that do not fetch them.
        own_url: watches which process answers at this node's URL.

    Raises:
        ConfigurationError: the list does not name this node once, or the file cannot be used, or belongs to another list.
    """

    def __init__(
        self,
        view: View,
        clock: Clock,
        own: Heartbeat,
        urls: Sequence[str],
        *,
        heartbeat_s: float,
        call: Call,
        faults: PeerFaults,
        file: BatchFile | None,
        on_event: OnEvent,
        coming: Sequence[str] = (),
        witness: Witness | None = None,
    ) -> None:
        super().__init__(view, clock, logger, on_event)
        self._heartbeat_s = heartbeat_s
        self._file = file
        stored = None if file is None else file.load()
        try:
            self.quorum = Quorum(view, own, urls, now=self._now(), heartbeat_s=heartbeat_s, stored=stored, coming=coming)
        except ValueError as exc:
            if file is not None:
                file.close()
            raise ConfigurationError([f"HA_SESSION_PEERS: {exc}"]) from exc
        self._witness = witness
        kept = self.quorum.durable
        self._is_older = witness is not None and kept.unchecked and witness.is_older(kept.incarnation, kept.position)
        """Whether the file is older than it was once. The other members may remember what it lacks."""
        self._is_unlisted = self.quorum.durable.was_unlisted
        self._heed_members()
        self._has_two_members = 2 in (len(urls), len(coming))
        self._has_said_good_bye = False
        self._durable, self._fenced = Watermark(), Watermark()
        self._reports = Reports(urls, coming, self.quorum, faults=faults, clock=clock, logger=logger, on_event=on_event)
        self._writer = BatchWriter(self.quorum, clock=clock, obey=self._obey, wake=self._wake, logger=logger)
        news = self._obey_news
        self.polling = Polling(
            self.quorum,
            call,
            clock=clock,
            heartbeat_s=heartbeat_s,
            obey=news,
            wait_changed=self.wait_changed,
            faults=faults,
            tell=self._reports.poll_ended,
        )
        self.answering = Answering(self.quorum, clock=clock, obey=self._obey, wake=self._wake, heard=self.polling.heard)
        self.pushing = Pushing(self.quorum, call, clock=clock, obey=news, wait_changed=self.wait_changed, faults=faults)
        self.own_url = OwnUrl(own.url, own.life, call, clock=self._clock, tell=partial(self._reports.poll_ended, own.url), logger=logger)

    def _heed_file(self, event: QuorumEvent) -> None:
        """If this node has recovered and no member remembered more, then the files of all members went back."""
        if isinstance(event, OldFile):
            self._is_older = False  # it is learned anew
        elif isinstance(event, Recovered) and self._is_older and self._witness is not None:
            self._is_older = False
            self._witness.set_back(self.quorum.durable.incarnation, self.quorum.durable.position)
            logger.error("%s", self._witness.told)
            self._on_event(PossibleLoss())

    def _note_file(self, *, now: bool = False) -> None:
        if self._witness is not None and self.quorum.serving:
            self._witness.note(self.quorum.durable.incarnation, self.quorum.durable.position, now=now)

    @property
    def _members(self) -> Members:
        return self.quorum.members

    # The state machine is obeyed here, and nowhere else.

    def _obey(self, ready: Ready) -> None:
        """Do the work that the state machine asks for after a call."""
        self._heed_members()
        self._carry_out(ready)

    def _carry_out(self, ready: Ready) -> None:
        self.answering.hand_out(ready.answers)
        if ready.batch is not None:
            self._writer.take(ready.batch)
        for event in ready.events:
            self._reports.report(event)
            self._heed_file(event)
        self._note_file()
        self._durable.rise(self.quorum.fence.durable)
        self._fenced.rise(self.quorum.fence.fenced)

    def _obey_news(self, ready: Ready) -> None:
        """Obey after a call that may have brought news: requests that wait for news look again."""
        self._obey(ready)
        self._wake()

    def _pass_time(self) -> None:
        # Wakes no request that waits for news: time alone brings none, and requests that it woke would wake each other.
        now = self._now()
        self._writer.tick()
        self._obey(self.quorum.tick(now))
        self.polling.ask(self.quorum.quiet_time.due(now))

    def seek_news(self) -> None:
        self.polling.ask(self.quorum.peers)

    # The interface of the node.

    def apply(self, entries: Sequence[Entry]) -> None:
        self._append(entries, awaited=False)

    def _append(self, entries: Sequence[Entry], *, awaited: bool) -> Appended:
        appended, ready = self.quorum.append(entries, self._now(), awaited=awaited)
        self._carry_out(ready)  # the members have said nothing new
        self._wake()
        return appended

    async def confirm(self) -> None:
        """Exchange a message with a majority, the way that an entry goes."""
        sought, ready = self.quorum.seek_contact(self._now())
        self._obey(ready)
        if not await self._is_done_in_time(lambda: self.quorum.is_found(sought), self.wait_changed):
            raise QuorumLost("no majority answers, or takes entries")

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        appended = self._append(entries, awaited=True)
        await self._until_durable(appended, self._durable)
        return Receipt(appended.position, self._clock.boot_s())

    async def append_and_fence(self, entries: Sequence[Entry]) -> None:
        appended = self._append(entries, awaited=True)
        await self._until_durable(appended, self._fenced)  # mostly the fence comes within the first wait
        if self.quorum.standing(appended) != "fenced":
            await self.fence(Receipt(appended.position, self._clock.boot_s()))

    async def _until_durable(self, appended: Appended, mark: Watermark) -> None:
        """Return once an entry is durable, and this mark has reached it or the first limit is over.

        Not with the next news: each would wake all log-outs that wait.
        """
        if not await self._is_done_in_time(lambda: self.quorum.standing(appended) != "applied", partial(mark.reached, appended.position)):
            raise QuorumLost("no majority holds the entry yet")

    async def _is_done_in_time(self, is_done: Callable[[], bool], wait: Callable[[], Awaitable[None]]) -> bool:
        """Wait for a majority; return whether it has done its part within the limit.

        Args:
            is_done: whether it has.
            wait: returns when it may have.
        """
        now = self._now()
        give_up_s = now.boot_s + DURABLE_LIMIT_BUSY_S
        has_hope = self.quorum.has_quorum(now) and not self._writer.is_failing
        look_s = now.boot_s + (DURABLE_LIMIT_S if has_hope else DURABLE_LIMIT_ALONE_S)
        with self.pushing.needed:
            while not is_done():
                now = self._now()
                if now.boot_s >= look_s:
                    silent_s = max(DURABLE_LIMIT_S, self.polling.majority_limit_s())
                    has_hope = self.quorum.has_quorum(now, within_s=silent_s) and not self._writer.is_failing
                    if now.boot_s >= give_up_s or not has_hope:
                        return False
                    look_s = min(now.boot_s + DURABLE_LIMIT_S, give_up_s)
                with self._clock.move_on_after(min(look_s - now.boot_s, self._heartbeat_s / 2)) as limit:
                    await wait()
                if limit.cancelled_caught:
                    self._obey(self.quorum.ready(self._now()))  # while the own disk is busy, others' polls are held for less
        return True

    def may_lose(self, cut: Cut) -> bool:
        return self.quorum.may_lose(cut)

    async def fence(self, receipt: Receipt) -> None:
        with self.pushing.needed:
            await self._fence(receipt)

    async def _fence(self, receipt: Receipt) -> None:
        appended = Appended(receipt.position)
        give_up_s = self._clock.boot_s() + 2 * self.quorum.members.fence_wait_s + DURABLE_LIMIT_S
        while self.quorum.standing(appended) != "fenced":
            now_s = self._clock.boot_s()
            due_s = self.quorum.fenced_by(appended)
            if now_s >= give_up_s:
                # This happens only if the node finds that it has forgotten entries: its account of durable entries began anew.
                raise QuorumLost("this node has forgotten which entries are durable")
            with self._clock.move_on_after(min(give_up_s if due_s is None else due_s, give_up_s) - now_s) as wait:
                await self._fenced.reached(appended.position)
            if wait.cancelled_caught:
                self._pass_time()

    def is_starting(self) -> bool:
        return self.quorum.is_starting

    def has_left(self) -> bool:
        return self.quorum.left

    def drain(self) -> None:
        self.quorum.drain()
        self._obey(self.quorum.ready(self._now()))

    def announce(self, kids: tuple[KeyId, ...]) -> None:
        super().announce(kids)
        self.quorum.holds.hurry()
        self._obey(self.quorum.ready(self._now()))

    async def hand_over(self) -> None:
        with self._clock.move_on_after(HAND_OVER_S):
            await self.pushing.hand_over()

    async def leave(self) -> None:
        await self.hand_over()
        if self._has_said_good_bye:
            return
        # From here on this node accepts nothing: only then may the others stop waiting for it.
        self._obey_news(self.quorum.leave(self._now()))
        with self._clock.move_on_after(GOOD_BYE_S):
            await self.pushing.say_good_bye()
        self._has_said_good_bye = True  # not before: a cancelled good-bye is said again

    def is_draining(self) -> bool:
        return self.quorum.left or self.quorum.speaker.draining

    def why_not_ready(self) -> str | None:
        quorum, now = self.quorum, self._now()
        if self.own_url.shared:
            return "another process answers at HA_SESSION_ADVERTISE_URL; give each process a URL of its own"
        if (unlisted := why_not_serving(quorum)) is not None:
            return unlisted
        if quorum.is_ready(now):
            return None
        if self.is_draining():
            return DRAINING
        # A single mismatched member is no reason to take the majority without it out of service.
        if quorum.mismatched and (quorum.recovering or not self._is_fresh(now)):
            return "; ".join(self.mismatches())
        silent = self._reports.troubles_of(tuple(quorum.peers))
        if quorum.recovering:
            return f"still learning the entries that it may have forgotten from the other members{silent}"
        return self._own_fault(now) or f"out of contact with a majority of the members{silent}"

    def index(self) -> str | None:
        # Later entries came from another member, and may reach the others from there before they do from this node.
        return f"{self.quorum.incarnation}-{self.quorum.first_hand}"

    def has_reached(self, index: str) -> bool:
        named = parse_index(index)
        return named is None or self.quorum.has_reached(*named)

    def sync_lag(self) -> Tally:
        return self.quorum.sync_lag

    def position(self) -> int:
        return self.quorum.position

    def quorum_size(self) -> int:
        return self.quorum.majority

    def has_quorum(self) -> bool:
        return self.quorum.has_quorum(self._now())

    def member_lists(self) -> Mapping[str, str | None]:
        membership = self.quorum.membership
        current, coming = (*membership.digests, None)[:2]
        return {"current": current, "next": coming, "phase": membership.phase}

    def mismatches(self) -> Sequence[str]:
        return self._reports.mismatches()

    def exposure(self) -> str | None:
        if self._witness is None:
            return EXPOSED
        return self._writer.trouble or self._witness.exposure(self._view)

    # The tasks.

    async def run(self) -> None:
        if self._file is not None:
            self._file.hold()
        if (exposed := self.exposure()) is not None:
            logger.warning("%s", exposed)
        if self._is_unlisted:
            logger.info("%s was written by a release that did not note the list of members; from now on it belongs to this list", FILE)
        if self._has_two_members:
            logger.warning("two members cannot lose one: while either is gone the other cannot validate sessions; add a third member")
        try:
            await self._run()
        finally:
            if self._file is not None:
                self._note_file(now=True)
                self._file.close()

    async def _run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for url in self.quorum.peers:
                tasks.start_soon(self.polling.poll_for_ever, url)
                tasks.start_soon(self.polling.ask_for_ever, url)
                tasks.start_soon(self.pushing.push_for_ever, url)
            tasks.start_soon(self.answering.prepare_for_ever)
            tasks.start_soon(self.own_url.watch, self._heartbeat_s)
            if self._file is not None:
                tasks.start_soon(self._writer.write_for_ever, self._file)
            await self._pass_time_for_ever(lambda: until_tick_s(self._clock.boot_s(), self.quorum.quiet_time.tick_s(self._now())))
