"""The contract of a cluster log as tests: each sentence of :class:`~ha_session_mw.abc.ClusterLog`, run against a backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_hex
from typing import NamedTuple, Self

import anyio

from ..._core.cluster.members import Heartbeat
from ..._core.cluster.view import View
from ...abc import Backend, Clock, ClusterLog
from ...clocks import SystemClock
from ...events import ClusterEvent, FoundQuorum, LostQuorum
from ...exceptions import QuorumLost
from ...models import Cut, CutId, Deny, DenyKey, Entry, KeyId, NodeId
from ...version import __version__
from .harness import Contract, Harness

HOUR_MS = 3_600_000


class Member(NamedTuple):
    """One node: its log, the view that the log fills, its clock, and the events that the log has reported (``on_event``)."""

    log: ClusterLog
    view: View
    clock: Clock
    events: Sequence[ClusterEvent]

    @classmethod
    def open(cls, backend: Backend, *, clock: Clock | None = None, freshness_limit_s: float = 5.0) -> Self:
        """Open a log as a node does. Run its ``run``, too."""
        view, events, name = View(), list[ClusterEvent](), token_hex(16)
        clock = clock or SystemClock()
        own = Heartbeat(
            member=NodeId(f"node-{name[:8]}"),
            life=name,
            url="",
            state="starting",
            sequence=0,
            wall_ms=0,
            kids=(KeyId("key"),),
            freshness_limit_s=freshness_limit_s,
            absolute_ms=12 * HOUR_MS,
            release=__version__,
        )
        return cls(backend.open_log(view, clock, own, None, on_event=events.append), view, clock, events)

    def knows(self, entry: Entry) -> bool:
        """Return whether an entry counts for a request that comes now."""
        if self.log.poll_now is not None:
            self.log.poll_now()
        return self.view.knows(entry)

    @property
    def is_fresh(self) -> bool:
        """Whether the node may accept sessions now."""
        if self.log.poll_now is not None:
            self.log.poll_now()
        return self.clock.boot_s() - self.view.fresh_at <= self.log.freshness_limit_s


class Nodes(Harness):
    """The nodes of a cluster on which a log is tested.

    Attributes:
        members: the nodes that validate sessions; one, if the backend has only one.
    """

    members: Sequence[Member]
    limit_s = 30.0

    async def break_off(self, member: Member) -> None:
        """Keep anything that the member appends from becoming durable, until :meth:`mend`."""
        raise NotImplementedError

    async def mend(self, member: Member) -> None:
        """Undo :meth:`break_off`."""
        raise NotImplementedError


class ClusterLogContract(Contract[Nodes]):
    """The tests of a cluster log.

    Example:
        >>> class TestMyLog(ClusterLogContract):
        ...     def opened(self) -> AbstractAsyncContextManager[Nodes]:
        ...         return my_nodes()
    """

    def _deny(self, member: Member) -> Deny:
        return Deny(f"session-{next(self._numbers):014}", self._end_ms(member))

    def _end_ms(self, member: Member) -> int:
        return int(member.clock.wall_s() * 1000) + HOUR_MS

    def _one_of_each(self, member: Member) -> list[Entry]:
        end_ms, number = self._end_ms(member), next(self._numbers)
        cut = Cut(CutId(f"cut{number}~{end_ms // 1000:x}"), f"subject{number}", end_ms)
        successor = Cut(CutId(f"new{number}~{end_ms // 1000:x}"), f"subject{number}", end_ms, replaces=(cut.id,))
        return [self._deny(member), cut, successor, DenyKey(KeyId(f"key{number}"), end_ms)]

    # apply

    async def test_applied_entries_are_in_the_view_at_once(self) -> None:
        async with self.opened() as nodes:
            log, view, *_ = member = nodes.members[0]
            entries = self._one_of_each(member)
            log.apply(entries)
            assert all(view.knows(entry) for entry in entries)

    async def test_applied_entries_spread_when_that_is_possible(self) -> None:
        async with self.opened() as nodes:
            entry = self._deny(nodes.members[0])
            nodes.members[0].log.apply([entry])
            await nodes.wait_until(lambda: all(member.knows(entry) for member in nodes.members))

    async def test_entries_that_are_known_change_nothing(self) -> None:
        async with self.opened() as nodes:
            log, view, *_ = member = nodes.members[0]
            entries = self._one_of_each(member)
            log.apply(entries)
            before = [*view.entries()]
            log.apply([*reversed(entries)])
            assert [*view.entries()] == before

    async def test_a_log_out_outranks_a_replacement_of_the_same_id_in_any_order(self) -> None:
        async with self.opened() as nodes:
            first, last = nodes.members[0], nodes.members[-1]
            log_outs = [self._deny(first), self._deny(first)]
            replaced = [Deny(entry.id, entry.until_ms, int(first.clock.wall_s() * 1000)) for entry in log_outs]

            async def both_orders() -> None:
                for earlier, later in ((log_outs[0], replaced[0]), (replaced[1], log_outs[1])):
                    await first.log.append([earlier])
                    await last.log.append([later])

            await nodes.run(both_orders)
            await nodes.wait_until(lambda: all(member.knows(entry) for member in nodes.members for entry in log_outs))
            assert not any(entry.id in member.view.superseded for member in nodes.members for entry in log_outs)

    async def test_a_replaced_id_is_denied_on_each_member_as_one(self) -> None:
        async with self.opened() as nodes:
            entry = self._deny(nodes.members[0])
            replaced = Deny(entry.id, entry.until_ms, int(nodes.members[0].clock.wall_s() * 1000))
            nodes.members[0].log.apply([replaced])
            await nodes.wait_until(lambda: all(member.knows(replaced) for member in nodes.members))
            assert all(member.view.superseded.get(entry.id) == replaced.replaced_ms for member in nodes.members)

    # confirm

    async def test_a_confirmation_changes_no_view(self) -> None:
        async with self.opened() as nodes:
            log, entries = nodes.members[0].log, list[Entry]()

            async def append() -> None:
                for member in nodes.members:
                    mine = self._one_of_each(member)
                    await member.log.fence(await member.log.append(mine))
                    entries.extend(mine)

            async def confirm() -> None:
                before = [{*map(repr, member.view.entries())} for member in nodes.members]
                for _ in range(2):
                    await log.confirm()
                assert [{*map(repr, member.view.entries())} for member in nodes.members] == before

            await nodes.run(append)
            await nodes.wait_until(lambda: all(member.knows(entry) for member in nodes.members for entry in entries))
            await nodes.run(confirm)

    async def test_many_confirmations_at_once_all_return(self) -> None:
        async with self.opened() as nodes:

            async def all_of_them() -> None:
                async with anyio.create_task_group() as tasks:
                    for member in nodes.members:
                        for _ in range(20):
                            tasks.start_soon(member.log.confirm)

            await nodes.run(all_of_them)

    async def test_a_confirmation_that_is_given_up_leaves_the_log_as_it_was(self) -> None:
        async with self.opened() as nodes:
            log, view, *_ = member = nodes.members[0]
            entry = self._deny(member)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await log.confirm()

            async def append() -> None:
                await log.fence(await log.append([entry]))

            await nodes.run(append)
            assert view.knows(entry)

    async def test_a_log_that_makes_nothing_durable_confirms_nothing_until_it_is_mended(self) -> None:
        async with self.opened() as nodes:
            if not nodes.can_break:
                return
            member = nodes.members[0]
            answers: list[bool] = []

            async def confirm() -> None:
                try:
                    await member.log.confirm()
                except QuorumLost:
                    answers.append(False)
                else:
                    answers.append(True)

            await nodes.run(confirm)
            await nodes.break_off(member)
            for _ in range(2):
                await nodes.run(confirm)
            assert answers == [True, False, False]
            assert [*member.view.entries()] == []
            await nodes.mend(member)
            for _ in range(20):
                if not answers[-1]:
                    await nodes.run(confirm)
            assert answers[-1]

    # append

    async def test_appended_entries_are_merged_before_the_first_suspension_whatever_happens_then(self) -> None:
        async with self.opened() as nodes:
            log, view, *_ = member = nodes.members[0]
            entry = self._deny(member)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await log.append([entry])
            assert view.knows(entry)

    async def test_the_same_entries_may_be_appended_again(self) -> None:
        async with self.opened() as nodes:
            log, view, *_ = member = nodes.members[0]
            entries = self._one_of_each(member)

            async def twice() -> None:
                await log.append(entries)
                before = [*view.entries()]
                await log.append(entries)
                assert [*view.entries()] == before

            await nodes.run(twice)

    async def test_a_receipt_says_where_the_log_stands_and_since_when_the_entries_are_durable(self) -> None:
        async with self.opened() as nodes:
            log, _, clock, _ = member = nodes.members[0]

            async def three_times() -> None:
                position = -1
                for _ in range(3):
                    begun_s = clock.boot_s()
                    receipt = await log.append([self._deny(member)])
                    assert receipt.position > position
                    assert begun_s <= receipt.durable_at_s <= clock.boot_s()
                    position = receipt.position

            await nodes.run(three_times)

    async def test_many_appends_at_once_all_become_durable(self) -> None:
        async with self.opened() as nodes:
            entries = [(member, self._deny(member)) for member in nodes.members for _ in range(20)]

            async def append(member: Member, entry: Entry) -> None:
                await member.log.append_and_fence([entry])

            async def all_of_them() -> None:
                async with anyio.create_task_group() as tasks:
                    for member, entry in entries:
                        tasks.start_soon(append, member, entry)

            await nodes.run(all_of_them)
            assert all(member.knows(entry) for member in nodes.members for _, entry in entries)

    async def test_entries_that_cannot_become_durable_raise_and_become_durable_later(self) -> None:
        async with self.opened() as nodes:
            if not nodes.can_break:
                return
            log, view, *_ = member = nodes.members[0]
            entry = self._deny(member)
            await nodes.break_off(member)
            raised: list[QuorumLost] = []

            async def append() -> None:
                try:
                    await log.append([entry])
                except QuorumLost as lost:
                    raised.append(lost)

            await nodes.run(append)
            assert raised
            assert view.knows(entry)
            await nodes.mend(member)
            await nodes.wait_until(lambda: all(other.knows(entry) for other in nodes.members))

    # fence

    async def test_after_the_fence_every_node_refuses_what_the_entries_deny(self) -> None:
        async with self.opened() as nodes:

            async def everywhere() -> None:
                for member in nodes.members:
                    entries = self._one_of_each(member)
                    await member.log.append_and_fence(entries)
                    assert all(other.knows(entry) for other in nodes.members for entry in entries)

            await nodes.run(everywhere)

    async def test_all_nodes_come_to_the_same_view(self) -> None:
        async with self.opened() as nodes:

            async def crosswise() -> None:
                for member in (*nodes.members, *reversed(nodes.members)):
                    await member.log.append_and_fence(self._one_of_each(member))

            await nodes.run(crosswise)
            assert all(member.is_fresh for member in nodes.members)
            views = [{repr(entry) + entry_key(entry) for entry in member.view.entries()} for member in nodes.members]
            assert views == [views[0]] * len(views)

    # wait_changed, poll_now, tick

    async def test_an_append_on_another_node_ends_wait_changed(self) -> None:
        async with self.opened() as nodes:
            first, last = nodes.members[0], nodes.members[-1]
            entry = self._deny(first)
            woken: list[bool] = []

            async def wait() -> None:
                while not last.view.knows(entry):
                    await last.log.wait_changed()
                    await anyio.lowlevel.checkpoint()
                woken.append(True)

            async def both() -> None:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait)
                    await anyio.lowlevel.checkpoint()
                    await first.log.append([entry])

            await nodes.run(both)
            assert woken

    async def test_wait_changed_lets_time_pass_while_nothing_is_new(self) -> None:
        async with self.opened() as nodes:
            member, calls = nodes.members[0], 0

            async def ask() -> None:
                nonlocal calls
                with member.clock.move_on_after(0.05):
                    while calls < 1000:  # a log that answers at once lets nobody else run
                        await member.log.wait_changed()
                        calls += 1

            await nodes.run(ask)
            assert calls < 1000

    async def test_a_refresh_never_raises_and_the_floor_never_falls(self) -> None:
        async with self.opened() as nodes:
            for log, view, *_ in nodes.members:
                floor_ms = view.floor_ms
                for _ in range(3):
                    log.tick()
                    assert view.floor_ms >= floor_ms

    # on_event

    async def test_a_lost_quorum_is_reported_once_and_a_found_one_once(self) -> None:
        async with self.opened() as nodes:
            if not nodes.can_break:
                return
            log, _, _, events = member = nodes.members[0]

            async def try_to_append() -> None:
                with suppress(QuorumLost):
                    await log.append([self._deny(member)])

            await nodes.break_off(member)
            for _ in range(2):
                await nodes.run(try_to_append)
            await nodes.wait_until(lambda: LostQuorum() in events)
            await nodes.mend(member)
            await nodes.wait_until(lambda: FoundQuorum() in events)
            await nodes.run(try_to_append)
            assert [event for event in events if isinstance(event, LostQuorum | FoundQuorum)] == [LostQuorum(), FoundQuorum()]

    # The state of a node

    async def test_a_node_that_is_well_is_ready_and_fresh_and_trusts_its_clock(self) -> None:
        async with self.opened() as nodes:
            for member in nodes.members:
                log = member.log
                assert (log.why_not_ready(), log.is_starting(), log.trusts_clock(), member.is_fresh) == (None, False, True, True)
                assert log.freshness_limit_s > 0
                ahead_ms = (member.clock.wall_s() - member.clock.boot_s()) * 1000
                assert math.isnan(log.trusted_ahead_ms) or abs(log.trusted_ahead_ms - ahead_ms) < 1000

    async def test_each_other_member_announces_its_keys(self) -> None:
        async with self.opened() as nodes:
            for log, *_ in nodes.members:
                assert [*map(tuple, log.announced_kids())] == [*log.kids_of_others().values()]

    async def test_an_unknown_end_lies_after_the_end_of_every_token(self) -> None:
        async with self.opened() as nodes:
            for member in nodes.members:
                assert member.log.unknown_end_ms() > int(member.clock.wall_s() * 1000)

    async def test_a_node_has_reached_where_it_is_and_after_the_fence_where_the_others_are(self) -> None:
        async with self.opened() as nodes:

            async def append() -> None:
                for member in nodes.members:
                    await member.log.fence(await member.log.append([self._deny(member)]))

            await nodes.run(append)
            for one in nodes.members:
                index = one.log.index()
                assert index is None or all(other.log.has_reached(index) for other in nodes.members)

    async def test_text_that_is_no_index_keeps_nobody_waiting(self) -> None:
        async with self.opened() as nodes:
            for text in ("", "-", "x", "1-", "-1", "ü-1", "a-9999999999999999999999"):
                assert all(member.log.has_reached(text) for member in nodes.members), text


def entry_key(entry: Entry) -> str:
    """Return text that tells an entry from others in a failed comparison."""
    return str(entry.kid) if isinstance(entry, DenyKey) else str(entry.id)
