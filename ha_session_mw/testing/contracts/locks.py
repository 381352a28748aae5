"""The contract of a lock service as tests: each sentence of :class:`~ha_session_mw.abc.LockService`, run against a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import anyio
from msgspec.structs import replace

from ...abc import Clock, Grant, LockService, Record, SessionStore
from ...exceptions import LockLost, SessionLocked, StoreUnavailable
from .harness import Contract, Harness, raises


class LockNode(NamedTuple):
    """One node: its lock service, the store that belongs to it, and its clock."""

    locks: LockService
    store: SessionStore
    clock: Clock

    async def write(self, id: str, content: bytes, grant: Grant) -> None:
        """Replace a record of any version, if a lock is still held."""
        current = await self.store.get(id)
        end_ms = int(self.clock.wall_s() * 1000) + 3_600_000
        await self.store.put(Record(id, content, end_ms, version=current.version if current else 0), guard=grant)

    async def read(self, id: str) -> bytes | None:
        """Return the stored content; None if there is no record."""
        found = await self.store.get(id)
        return found.content if found else None


class LockNodes(Harness):
    """The nodes on which a lock service is tested.

    Attributes:
        desks: the nodes; one, if the backend has only one.
        lease_s: a lease that is short enough to wait for its end, and long enough not to end by chance.
        late_s: how much later a lease may end for the others than for its holder, if all is well.
    """

    desks: Sequence[LockNode]
    lease_s = 2.0
    late_s = 0.1

    async def break_off(self, node: LockNode) -> None:
        """Cut a node off from the lock service, until :meth:`mend`."""
        raise NotImplementedError

    async def mend(self, node: LockNode) -> None:
        """Undo :meth:`break_off`."""
        raise NotImplementedError


class LockServiceContract(Contract[LockNodes]):
    """The tests of a lock service.

    Example:
        >>> class TestMyLocks(LockServiceContract):
        ...     def opened(self) -> AbstractAsyncContextManager[LockNodes]:
        ...         return my_nodes()
    """

    def _name(self) -> str:
        return f"lock {next(self._numbers)}"

    # acquire

    async def test_a_free_lock_is_granted_at_once(self) -> None:
        async with self.opened() as nodes:

            async def story() -> None:
                for locks, _, clock in nodes.desks:
                    name, begun_s = self._name(), clock.boot_s()
                    grant = await locks.acquire(name, within_s=0, lease_s=nodes.lease_s)
                    assert grant.name == name
                    assert begun_s < grant.until_s
                    assert await is_held(nodes, name)

            await nodes.run(story)

    async def test_a_lock_has_one_holder_at_a_time_on_whichever_node(self) -> None:
        async with self.opened() as nodes:
            name, inside, most, done = self._name(), 0, 0, 0

            async def work(node: LockNode) -> None:
                nonlocal inside, most, done
                grant = await node.locks.acquire(name, within_s=60, lease_s=60)
                inside += 1
                most = max(most, inside)
                await wait(node, 0.01)
                inside -= 1
                done += 1
                await node.locks.release(grant)

            async def story() -> None:
                async with anyio.create_task_group() as tasks:
                    for node in (*nodes.desks,) * 6:
                        tasks.start_soon(work, node)

            await nodes.run(story)
            assert (most, done) == (1, 6 * len(nodes.desks))

    async def test_requests_are_served_roughly_in_their_order_of_arrival(self) -> None:
        async with self.opened() as nodes:
            name, served = self._name(), list[int]()

            async def waiter(number: int) -> None:
                node = nodes.desks[number % len(nodes.desks)]
                grant = await node.locks.acquire(name, within_s=60, lease_s=60)
                served.append(number)
                await node.locks.release(grant)

            async def story() -> None:
                first = nodes.desks[0]
                grant = await first.locks.acquire(name, within_s=0, lease_s=60)
                async with anyio.create_task_group() as tasks:
                    for number in range(12):
                        tasks.start_soon(waiter, number)
                        await wait(first, 0.05)
                    await first.locks.release(grant)

            await nodes.run(story)
            assert sorted(served) == [*range(12)]
            assert max(abs(place - number) for place, number in enumerate(served)) <= 3

    async def test_a_request_whose_time_is_over_raises_and_leaves_no_ticket(self) -> None:
        async with self.opened() as nodes:
            name, (first, other) = self._name(), two_of(nodes)

            async def story() -> None:
                grant = await first.locks.acquire(name, within_s=0, lease_s=60)
                for within_s in (0, 0.2):
                    begun_s = other.clock.boot_s()
                    assert await raises(SessionLocked, other.locks.acquire, name, within_s=within_s, lease_s=60)
                    assert other.clock.boot_s() - begun_s >= within_s
                await first.locks.release(grant)
                await first.locks.acquire(name, within_s=0, lease_s=60)

            await nodes.run(story)

    async def test_a_request_that_is_cancelled_while_it_waits_leaves_no_ticket(self) -> None:
        async with self.opened() as nodes:
            name, (first, other) = self._name(), two_of(nodes)

            async def story() -> None:
                grant = await first.locks.acquire(name, within_s=0, lease_s=60)
                with other.clock.move_on_after(0.2) as limit:
                    await other.locks.acquire(name, within_s=60, lease_s=60)
                assert limit.cancelled_caught
                await first.locks.release(grant)
                await first.locks.acquire(name, within_s=0, lease_s=60)

            await nodes.run(story)

    async def test_a_request_that_is_cancelled_before_the_grant_leaves_no_lock(self) -> None:
        async with self.opened() as nodes:
            name, (first, other) = self._name(), two_of(nodes)

            async def story() -> None:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await first.locks.acquire(name, within_s=60, lease_s=60)
                await other.locks.acquire(name, within_s=0, lease_s=60)

            await nodes.run(story)

    async def test_locks_of_other_names_are_other_locks(self) -> None:
        async with self.opened() as nodes:
            names = [self._name(), "a/b", "a", "a/", "ü \N{SNOWMAN} %", "\0", "x" * 600]

            async def story() -> None:
                for number, name in enumerate(names):
                    node = nodes.desks[number % len(nodes.desks)]
                    await node.locks.acquire(name, within_s=0, lease_s=60)
                for name in names:
                    assert await is_held(nodes, name), name

            await nodes.run(story)

    # The fencing number

    async def test_the_fencing_number_grows_with_each_grant(self) -> None:
        async with self.opened() as nodes:
            name, fences = self._name(), list[int]()

            async def story() -> None:
                for node in (*nodes.desks, *reversed(nodes.desks)):
                    grant = await node.locks.acquire(name, within_s=60, lease_s=60)
                    fences.append(grant.fence)
                    await node.locks.release(grant)

            await nodes.run(story)
            assert fences == sorted(set(fences))

    # The lease

    async def test_a_lock_whose_lease_is_over_goes_to_the_next_and_is_lost_to_its_holder(self) -> None:
        async with self.opened() as nodes:
            name, (first, other) = self._name(), two_of(nodes)

            async def story() -> None:
                paused = await first.locks.acquire(name, within_s=0, lease_s=nodes.lease_s)
                grant = await other.locks.acquire(name, within_s=60, lease_s=60)
                assert 0 <= first.clock.boot_s() - paused.until_s < nodes.late_s + 1
                assert grant.fence > paused.fence
                assert await raises(LockLost, first.locks.renew, paused, lease_s=nodes.lease_s)
                await first.locks.release(paused)
                assert await is_held(nodes, name)
                await other.locks.renew(grant, lease_s=60)

            await nodes.run(story)

    async def test_a_lock_whose_lease_is_over_cannot_be_renewed_though_nobody_else_wants_it(self) -> None:
        async with self.opened() as nodes:
            name, node = self._name(), nodes.desks[0]

            async def story() -> None:
                grant = await node.locks.acquire(name, within_s=0, lease_s=nodes.lease_s)
                await wait(node, nodes.lease_s + nodes.late_s)
                assert await raises(LockLost, node.locks.renew, grant, lease_s=nodes.lease_s)

            await nodes.run(story)

    async def test_a_renewed_lock_is_the_same_lock_for_longer(self) -> None:
        async with self.opened() as nodes:
            name, (first, other) = self._name(), two_of(nodes)

            async def story() -> None:
                grant = begun = await first.locks.acquire(name, within_s=0, lease_s=nodes.lease_s)
                while first.clock.boot_s() < begun.until_s + nodes.lease_s / 2:
                    await wait(first, nodes.lease_s / 3)
                    renewed = await first.locks.renew(grant, lease_s=nodes.lease_s)
                    assert (renewed.name, renewed.fence, renewed.holder) == (name, begun.fence, begun.holder)
                    assert renewed.until_s > grant.until_s
                    grant = renewed
                assert await raises(SessionLocked, other.locks.acquire, name, within_s=0, lease_s=60)

            await nodes.run(story)

    # release

    async def test_a_released_lock_is_granted_at_once_and_cannot_be_renewed(self) -> None:
        async with self.opened() as nodes:
            name, (first, other) = self._name(), two_of(nodes)

            async def story() -> None:
                grant = await first.locks.acquire(name, within_s=0, lease_s=60)
                await first.locks.release(grant)
                assert await raises(LockLost, first.locks.renew, grant, lease_s=60)
                await other.locks.acquire(name, within_s=0, lease_s=60)

            await nodes.run(story)

    async def test_a_lock_that_is_no_longer_held_may_be_released(self) -> None:
        async with self.opened() as nodes:
            name, (first, other) = self._name(), two_of(nodes)

            async def story() -> None:
                grant = await first.locks.acquire(name, within_s=0, lease_s=60)
                await first.locks.release(grant)
                await first.locks.release(grant)
                await other.locks.acquire(name, within_s=0, lease_s=60)
                await first.locks.release(grant)
                assert await is_held(nodes, name)

            await nodes.run(story)

    # Guarded writes

    async def test_a_holder_may_write_guarded_records_also_after_a_renewal(self) -> None:
        async with self.opened() as nodes:
            name, (first, other) = self._name(), two_of(nodes)

            async def story() -> None:
                grant = begun = await first.locks.acquire(name, within_s=0, lease_s=nodes.lease_s)
                await first.write(name, b"1", grant)
                while first.clock.boot_s() < begun.until_s:
                    await wait(first, nodes.lease_s / 3)
                    grant = await first.locks.renew(grant, lease_s=nodes.lease_s)
                await first.write(name, b"2", grant)
                assert await other.read(name) == b"2"
                await first.write(name, b"3", begun)  # it is the same lock
                assert await other.read(name) == b"3"

            await nodes.run(story)

    async def test_a_holder_that_was_paused_beyond_its_lease_cannot_write_when_another_has_had_the_lock(self) -> None:
        async with self.opened() as nodes:
            name, (first, other) = self._name(), two_of(nodes)

            async def story() -> None:
                paused = await first.locks.acquire(name, within_s=0, lease_s=nodes.lease_s)
                await first.write(name, b"before", paused)
                grant = await other.locks.acquire(name, within_s=60, lease_s=60)
                assert await raises(LockLost, first.write, name, b"too late", paused)
                assert await first.read(name) == b"before"
                await other.write(name, b"by the next", grant)
                await other.locks.release(grant)
                assert await raises(LockLost, first.write, name, b"too late", paused)
                assert await raises(LockLost, other.write, name, b"too late", grant)
                assert await first.read(name) == b"by the next"

            await nodes.run(story)

    async def test_a_holder_whose_lease_is_over_cannot_write_though_nobody_else_wants_the_lock(self) -> None:
        async with self.opened() as nodes:
            name, node = self._name(), nodes.desks[0]

            async def story() -> None:
                grant = await node.locks.acquire(name, within_s=0, lease_s=nodes.lease_s)
                await wait(node, nodes.lease_s + nodes.late_s)
                assert await raises(LockLost, node.write, name, b"too late", grant)
                assert await node.read(name) is None

            await nodes.run(story)

    async def test_the_lock_of_another_name_guards_nothing_by_its_number(self) -> None:
        async with self.opened() as nodes:
            name, node = self._name(), nodes.desks[0]

            async def story() -> None:
                grant = await node.locks.acquire(name, within_s=0, lease_s=60)
                assert await raises(LockLost, node.write, name, b"", replace(grant, name=self._name()))
                assert await raises(LockLost, node.write, name, b"", replace(grant, fence=grant.fence + 1))

            await nodes.run(story)

    # A service that cannot be reached

    async def test_an_unreachable_service_raises_in_bounded_time(self) -> None:
        async with self.opened() as nodes:
            if not nodes.can_break:
                return
            name, (first, other) = self._name(), two_of(nodes)

            async def story() -> None:
                grant = await first.locks.acquire(name, within_s=0, lease_s=nodes.lease_s)
                await nodes.break_off(first)
                assert await raises(StoreUnavailable, first.locks.renew, grant, lease_s=nodes.lease_s)
                assert await raises(StoreUnavailable, first.locks.acquire, self._name(), within_s=0, lease_s=60)
                await first.locks.release(grant)
                await nodes.mend(first)
                for node, wanted in ((first, self._name()), (other, name)):
                    while await raises(StoreUnavailable, node.locks.acquire, wanted, within_s=30, lease_s=60):
                        await wait(node, 0.1)

            await nodes.run(story)


def two_of(nodes: LockNodes) -> tuple[LockNode, LockNode]:
    """Return two of the nodes, or the only one twice."""
    return nodes.desks[0], nodes.desks[-1]


async def wait(node: LockNode, seconds: float) -> None:
    """Let time pass at a node."""
    with node.clock.move_on_after(seconds):
        await anyio.sleep_forever()


async def is_held(nodes: LockNodes, name: str) -> bool:
    """Return whether a lock is held, or awaited."""
    node = nodes.desks[-1]
    try:
        grant = await node.locks.acquire(name, within_s=0, lease_s=60)
    except SessionLocked:
        return True
    await node.locks.release(grant)
    return False
