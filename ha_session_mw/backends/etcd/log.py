"""The log of ``etcd://``: drives the state machine of ``_core/ordered`` for one process.

The parts are :mod:`.follower` (load and watch), :mod:`.heartbeats`, :mod:`.writer` and :mod:`.tidying`. This file joins them, and answers
for them as a :class:`~ha_session_mw.abc.ClusterLog`. The guarantees come from the state machine; the driver adds tasks, time limits
and retries.

The driver uses no etcd leases. Their timing cannot be trusted: 8 s became 16.9 s after the leader was killed. A denial must stay
until the floor has risen above its end. Entries are deleted by the floor, heartbeats of ended processes by the remaining members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import anyio
import msgspec

from ..._core.cluster.members import Heartbeat, Members
from ..._core.cluster.proven_lead import TRUSTED_SKEW_MS
from ..._core.cluster.view import View
from ..._core.ordered.log import Ordered
from ..._core.ordered.ready import CaughtUp, OrderedEvent, Ready
from ..._core.tally import Tally
from ..._core.ticks import until_tick_s
from ...abc import Clock, OnEvent, Receipt, ignore
from ...events import Diverged, FoundQuorum, LostQuorum, MemberDraining, MemberJoined, MemberLeft, PossibleLoss, Rollback, RolledBack
from ...exceptions import EntryRejected, QuorumLost
from ...models import Cut, Entry
from ..common.membered import DRAINING, MemberedLog, parse_index, tell_member
from ..common.outbox import Ticket
from ..common.watermark import Watermark
from ..common.witness import Witness
from .api import EtcdError, delete
from .checkpoints import CheckpointWriter
from .departures import Departures
from .follower import Follower
from .gateway import EtcdGateway
from .heartbeats import Alarm, beat_for_ever
from .keys import Keys
from .process import EtcdTroubles, Process, logger
from .restoring import Restorer
from .tidying import tidy
from .writer import Outboxes, Writer

DURABLE_LIMIT_S = 5.0
"""How long a log-out waits for etcd while this node is in contact. An election takes 1 to 2 s, and as long again after a split vote. A
late acknowledgement is worth more than an early refusal."""
DURABLE_LIMIT_ALONE_S = 0.5
"""How long a log-out waits for etcd while this node is out of contact, or etcd is full, when an answer is unlikely."""
ALONE_AGAINST_ETCD = "its clock differs from etcd's by more than 30 s, and no other node can be heard to tell which is right"
LEAVE_S = 5.0
"""Time limit for the last writes of a process that ends. Orchestrators kill a process some 10 s after they ask it to end."""


class EtcdLog(MemberedLog):
    """The log of one process.

    Args:
        view: what this node knows.
        clock: the two clocks.
        own: the heartbeat's constant parts.
        gateway: calls etcd.
        prefix: the prefix of all keys.
        heartbeat_s: time between two heartbeats.
        witness: remembers across restarts how far the log went; None without a folder for that.
        on_event: takes what happens to the cluster.

    Attributes:
        ordered: the state machine.
        follower: delivers the log to it.
    """

    def __init__(
        self,
        view: View,
        clock: Clock,
        own: Heartbeat,
        gateway: EtcdGateway,
        prefix: str,
        *,
        heartbeat_s: float,
        witness: Witness | None = None,
        on_event: OnEvent = ignore,
    ) -> None:
        super().__init__(view, clock, logger, on_event)
        self._own = own
        self._gateway = gateway
        self._keys = Keys(prefix)
        self._heartbeat_s = heartbeat_s
        self._witness = witness
        self._outboxes = Outboxes()
        self._applied, self._confirmed = Watermark(), Watermark()
        self._lives = 0
        self._lost = False
        self._troubles = EtcdTroubles(self._report_turn)
        self._begin()

    def _begin(self) -> None:
        """Begin as a new process: what this one announced before it left no longer holds."""
        self._lives += 1
        life = self._own.life if self._lives == 1 else f"{self._own.life}-{self._lives}"
        self.ordered = Ordered(self._view, msgspec.structs.replace(self._own, life=life), heartbeat_s=self._heartbeat_s)
        self._alarm = Alarm(self.ordered)
        self._departures = Departures(self.ordered)
        self._process = Process(
            self.ordered, self._gateway, self._keys, self._clock, self._troubles, self._obey, self._wake, self.wait_changed
        )
        self.follower = Follower(self._process)
        self._beating = anyio.Lock()
        self._writer = Writer(self._process, self._outboxes, self.follower.expect, self._beating)
        self._has_deleted_beat = False
        self._to_tidy = Ready()
        self._restorer = Restorer(self._process, self._outboxes)
        self._obey(self._to_tidy)
        self._wake()

    @property
    def _members(self) -> Members:
        return self.ordered.members

    # Entries.

    def apply(self, entries: Sequence[Entry]) -> None:
        self._put(entries)

    def _put(self, entries: Sequence[Entry]) -> Ticket:
        records = self._keys.records(entries)
        self.ordered.append(entries)
        self._wake()
        return self._outboxes.put(records)

    async def confirm(self) -> None:
        """Write a heartbeat and read it back."""
        begun_s = self._clock.boot_s()
        self.ordered.seek_contact()
        self._wake()
        with self._clock.move_on_after(self._durable_limit_s()):
            while self.ordered.standstill.beaten_s < begun_s:  # reads of a full etcd make the view fresh, too
                await self.wait_changed()
        if self.ordered.standstill.beaten_s < begun_s:
            raise QuorumLost(self._why_not_written())

    def _durable_limit_s(self) -> float:
        is_in_contact = self.ordered.is_fresh(self._now()) and not self.ordered.stands_still
        return DURABLE_LIMIT_S if is_in_contact else DURABLE_LIMIT_ALONE_S

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        return await self._write(entries, self._applied)  # so that the client's index covers what it has written

    async def append_and_fence(self, entries: Sequence[Entry]) -> None:
        await self.fence(await self._write(entries))  # what is confirmed has been applied here

    async def _write(self, entries: Sequence[Entry], mark: Watermark | None = None) -> Receipt:
        """Return once entries are written, and this mark has reached them or the limit is over."""
        ticket = self._put(entries)
        durable_s = math.inf
        with self._clock.move_on_after(self._durable_limit_s()):
            await ticket.done.wait()
            durable_s = self._clock.boot_s()
            if mark is not None:
                await mark.reached(ticket.position)
        if ticket.left:
            raise QuorumLost(self._why_not_written())
        if ticket.rejected:
            raise EntryRejected(
                f"{ticket.rejected} of {len(entries)} entries are too long for the log; this process enforces them all the same"
            )
        return Receipt(ticket.position, min(durable_s, self._clock.boot_s()))

    def may_lose(self, cut: Cut) -> bool:
        return any(key in self._outboxes for key in self._keys.records([cut]))

    def _why_not_written(self) -> str:
        if self.ordered.rolled_back is not None:
            return "the log in etcd was set back"
        why = self.trouble.get("writing") or self.trouble.get("taking beats")
        return "etcd has not taken the entry yet" if why is None else f"etcd {why}"

    async def fence(self, receipt: Receipt) -> None:
        while (left_s := self._fence_left_s(receipt)) > 0:
            with self._clock.move_on_after(left_s):
                await self._confirmed.reached(receipt.position)  # not the next news, which would wake all log-outs that wait
                while self._fence_left_s(receipt) > 0:
                    await self.wait_changed()
                return

    def _fence_left_s(self, receipt: Receipt) -> float:
        return self.ordered.fenced_by(receipt.position, receipt.durable_at_s) - self._clock.boot_s()

    def _wake(self) -> None:
        super()._wake()
        self._alarm.look()

    def _pass_time(self) -> None:
        # Nothing is woken: time alone brings no news, and the waiters would wake each other.
        self._obey(self.ordered.tick(self._now()))

    def is_starting(self) -> bool:
        return self.ordered.catching_up and not self.is_set_back()

    def is_set_back(self) -> bool:
        return self.ordered.rolled_back is not None

    def trusts_clock(self) -> bool:
        """A process alone has no other member to compare its clock with, and so compares it with etcd's."""
        if super().trusts_clock() and not self._is_alone_against_etcd():
            return True
        self.trusted_ahead_ms = math.nan
        return False

    def _is_alone_against_etcd(self) -> bool:
        return self._members.majority == 1 and abs(self.engine_ahead_s() or 0.0) * 1000 > TRUSTED_SKEW_MS

    def engine_ahead_s(self) -> float | None:
        return self._gateway.engine_clock.ahead_s(self._now())

    @property
    def trouble(self) -> Mapping[str, str]:
        """The present failures and their reasons, in words that follow "etcd "."""
        return self._troubles.current

    def is_draining(self) -> bool:
        return self.ordered.left or self.ordered.speaker.draining

    def why_not_ready(self) -> str | None:
        now = self._now()
        if self.is_set_back():
            return (
                "the log in etcd is older than what this node has applied; restore the newer one or accept the loss, see the how-to on etcd"
            )
        if self.ordered.is_ready(now):
            return ALONE_AGAINST_ETCD if self._is_alone_against_etcd() else None
        if self.is_draining():
            return DRAINING
        if self.trouble:
            return f"etcd {next(iter(self.trouble.values()))}"
        if self.ordered.catching_up and self.ordered.is_fresh(now):
            unheard = ", ".join(seen.heartbeat.member for seen in self.sightings() if seen.is_live and seen.ahead_s is None)
            return f"waiting to hear of the other members, to know whether its clock is right{': ' + unheard if unheard else ''}"
        if self.ordered.catching_up:
            return "still loading the log from etcd"
        return self._own_fault(now) or "out of contact with etcd"

    def index(self) -> str | None:
        return None if self.ordered.log is None else f"{self.ordered.log.id}-{self.follower.newest}"

    def has_reached(self, index: str) -> bool:
        named = parse_index(index)
        return named is None or self.ordered.has_reached(*named)

    def sync_lag(self) -> Tally:
        return self.ordered.own_beats.sync_lag

    def position(self) -> int:
        return self.ordered.position

    def has_quorum(self) -> bool:
        return not self._lost and self.ordered.log is not None

    def why_no_quorum(self) -> str:
        return self._why_not_written()

    # Tasks.

    async def run(self) -> None:
        if self.ordered.left:
            self._begin()
        async with self._gateway.opened():
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self.follower.follow_for_ever)
                    tasks.start_soon(self.follower.mind_watch_for_ever)
                    tasks.start_soon(beat_for_ever, self._process, self.follower.expect, self._beating, self._alarm)
                    tasks.start_soon(self._writer.write_for_ever, self._outboxes.singles)
                    tasks.start_soon(self._writer.write_for_ever, self._outboxes.jobs)
                    tasks.start_soon(self._tidy_for_ever)
                    tasks.start_soon(self._restorer.restore_for_ever)
                    tasks.start_soon(self._checkpoints().write_for_ever)
                    await self._pass_time_for_ever(lambda: until_tick_s(self._clock.boot_s(), self._heartbeat_s))
            except anyio.get_cancelled_exc_class():
                if not self._has_deleted_beat:  # the node has left by itself, unless it was cancelled
                    with anyio.CancelScope(shield=True):
                        await self.leave()
                raise

    def _checkpoints(self) -> CheckpointWriter:
        follower = self.follower
        return CheckpointWriter(
            self._process, follower.uncovered, lambda: follower.last, lambda: [other.member for other in self.members()]
        )

    def has_left(self) -> bool:
        return self.ordered.left

    def drain(self) -> None:
        self.ordered.drain()
        self._wake()

    async def leave(self) -> None:
        self._note_position(now=True)
        with self._clock.move_on_after(LEAVE_S):
            await self._leave()
        self._has_deleted_beat = True  # or has tried to, for long enough

    async def _leave(self) -> None:
        """Write what is left, validate nothing more, and delete the heartbeat, so that no other process waits for this one."""
        self.ordered.leave()
        self._restorer.hand_over()
        self._wake()
        try:
            await self._writer.flush()
            if (
                not self._has_deleted_beat and self.ordered.log is not None and not self.is_set_back()
            ):  # otherwise this process has no heartbeat
                async with self._beating:
                    await self._gateway.transact([delete(self._process.heartbeat_key)], once=True)
        except EtcdError as exc:
            logger.warning("etcd %s; %d entries of this process are not in it", exc, len(self._outboxes))

    async def _tidy_for_ever(self) -> None:
        while True:
            due, self._to_tidy = self._to_tidy, Ready()
            try:
                await tidy(self._gateway, self._keys, due)
            except EtcdError as exc:
                self._troubles.failed("tidying", str(exc))
            else:
                self._troubles.works("tidying")
            await self._sleep(until_tick_s(self._clock.boot_s(), self._heartbeat_s))

    # Requests of the state machine.

    def _obey(self, ready: Ready) -> None:
        self._heed_members()
        self._applied.rise(self.ordered.position)
        self._confirmed.rise(self.ordered.confirmed(self._now().boot_s))
        if ready.floor_ms is not None or ready.remove:
            self._to_tidy = ready
        self._restorer.add(ready.restore)
        for event in self._departures.sifted(ready.events, self._now().boot_s):
            self._log_event(event)
            if isinstance(event, CaughtUp):
                self._heed_witness()
            if not isinstance(event, CaughtUp):  # it is no public event
                self._on_event(event)
        self._note_position()
        self._report_turn()

    def _heed_witness(self) -> None:
        """A process that starts knows nothing itself, and an older log cannot tell it what is missing."""
        witness, log = self._witness, self.ordered.log
        if witness is not None and log is not None:
            if witness.is_older(log.id, self.ordered.position):
                witness.set_back(log.id, self.ordered.position)
            if (exposed := self.exposure()) is not None:
                logger.error("%s", exposed)
                self._on_event(PossibleLoss())

    def _note_position(self, *, now: bool = False) -> None:
        log = self.ordered.log
        if self._witness is not None and log is not None and not self.ordered.catching_up and not self.is_set_back():
            self._witness.note(log.id, self.ordered.position, now=now)

    def exposure(self) -> str | None:
        set_back = None if self._witness is None else self._witness.exposure(self._view)
        return set_back or self._restorer.exposure()

    def _report_turn(self) -> None:
        """Report whether log-outs can reach etcd, if that has changed."""
        lost = self.is_set_back() or "writing" in self.trouble or "taking beats" in self.trouble
        if lost != self._lost:
            self._lost = lost
            self._on_event(LostQuorum() if lost else FoundQuorum())

    def _log_event(self, event: OrderedEvent) -> None:
        match event:
            case CaughtUp():
                logger.info("this node has read the log in etcd, and validates sessions now")
            case Diverged(member):
                logger.error("member %s has read another log than this node up to the same position; this node loads it anew", member)
            case RolledBack(why):
                logger.error("%s; this node validates no sessions until an operator has decided, see the how-to on etcd", _SET_BACK[why])
            case MemberLeft(member):
                logger.warning("member %s has left, or is silent and counts as gone", member)
            case MemberJoined() | MemberDraining():
                tell_member(logger, event)
                if isinstance(event, MemberJoined):
                    for mismatch in self.mismatches():
                        logger.error("%s", mismatch)


_SET_BACK: Mapping[Rollback, str] = {
    "position": "the log in etcd is at an earlier revision than this node has applied",
    "log": "the log in etcd is another one than this node has applied",
    "entries": "the log in etcd lacks log-outs that this node has applied and that have not ended",
}
