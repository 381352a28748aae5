"""Many writers change one session at once, on three nodes that share a store: no acknowledged change is lost.

Hypothesis draws each writer's actions and the order of their reads and writes. Each story is replayed against a model:
the changes of each commit, made one after the other in the order of their commits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from ha_session_mw import Session, SessionManager, SessionMiddleware, Settings
from ha_session_mw.abc import Grant, Record
from ha_session_mw.backends.memory.store import MemoryRecords, MemoryStore
from ha_session_mw.manager import node_of
from ha_session_mw.testing import SECRET, ManualClock

from ..asgi.driver import call, obliging, scope_of
from ..shared import Shared

NODES = 3
LARGE = "x" * 5000

Key = str
Change = tuple[Key, int | None]
"""A key, and its new value; None removes it."""

CHANGES = st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 9))), min_size=1, max_size=3)
WRITERS = st.lists(st.lists(CHANGES, min_size=1, max_size=3), min_size=2, max_size=8)


class Paced(MemoryStore):
    """Lets others go first, as often as the dice say, before it reads and before and after it writes."""

    dice: Random

    async def _wait(self) -> None:
        for _ in range(self.dice.randrange(6)):
            await anyio.lowlevel.checkpoint()

    async def get(self, id: str) -> Record | None:
        await self._wait()
        return await super().get(id)

    async def put(self, record: Record, *, guard: Grant | None = None) -> Record:
        await self._wait()
        stored = await super().put(record, guard=guard)
        await self._wait()
        return stored


class ThreeNodes:
    """Three managers that share a store, but no log, because these tests have no log-outs."""

    def __init__(self, seed: int) -> None:
        clock, self.dice = ManualClock(), Random(seed)
        self.records = MemoryRecords(clock)
        self.apps = [self._node(clock) for _ in range(NODES)]

    def _node(self, clock: ManualClock) -> SessionMiddleware:
        shared = Shared(lambda on_newer: Paced(self.records, on_newer=on_newer))
        manager = SessionManager(Settings(secret_key=SECRET), clock=clock, backend=shared)
        shared.store.dice = self.dice
        return SessionMiddleware(obliging, manager=manager)

    async def visit(self, number: int, act: Callable[[Session], Any], token: str) -> tuple[int, str, Any]:
        headers = [(b"cookie", b"session=" + token.encode())] if token else []
        scope = scope_of("http", headers=headers, act=act, status=200, answer_headers=[])
        answer = await call(self.apps[number % NODES], scope)
        return answer.status, answer.token or token, scope.get("result")


def change(session: Session, changes: list[Change]) -> None:
    for key, value in changes:
        if value is None:
            session.pop(key, None)
        else:
            session[key] = [value]


def put(session: Session, key: Key, value: int) -> None:
    session[key] = value


def outcome(content: dict[str, Any], changes: list[Change]) -> dict[str, Any]:
    session = Session(content)
    change(session, changes)
    return dict(session)


async def story(writers: list[list[list[Change]]], seed: int, *, strict: bool) -> None:
    nodes = ThreeNodes(seed)
    _, token, _ = await nodes.visit(0, lambda session: session.update(large=LARGE, a=[0], b=[0]), "")
    began: dict[int, dict[str, Any]] = {}
    acknowledged: list[tuple[int, dict[str, Any], list[Change]]] = []
    refused: list[int] = []
    idle: list[int] = []

    async def write(number: int) -> None:
        mine = token
        for changes in writers[number]:

            async def act(session: Session, changes: list[Change] = changes) -> bool:
                session.strict = strict
                began[number] = dict(session)
                await anyio.lowlevel.checkpoint()
                change(session, changes)
                return session.modified

            status, mine, modified = await nodes.visit(nodes.dice.randrange(NODES), act, mine)
            if status == 409:
                assert strict
                refused.append(number)
                continue
            assert status == 200
            if modified:
                acknowledged.append((version_in(nodes, mine), began[number], changes))
            else:
                idle.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(len(writers)):
            tasks.start_soon(write, number)

    expected = {"large": LARGE, "a": [0], "b": [0]}
    for _, base, changes in sorted(acknowledged, key=lambda each: each[0]):
        if strict:
            assert base == expected  # no other writer had changed it meanwhile
        wanted = outcome(base, changes)
        for key in "abcd":
            if base.get(key) != wanted.get(key):  # this one changed it, and so it is as this one left it
                expected.pop(key, None)
                expected.update({key: wanted[key]} if key in wanted else {})
    for number in range(NODES):
        _, _, seen = await nodes.visit(number, lambda session: dict(session), token)
        assert seen == expected
    if strict:
        assert len(acknowledged) + len(refused) + len(idle) == sum(map(len, writers))


def version_in(nodes: ThreeNodes, token: str) -> int:
    verified = node_of(nodes.apps[0].manager).validator.verify(token.encode())
    assert verified is not None
    return verified.record


@given(WRITERS, st.integers(0, 1 << 16))
@example([[[("a", 1)]], [[("b", 1)]]], 0)
@example([[[("a", 1)]], [[("a", 2)]], [[("a", None)]]], 1)
def test_no_acknowledged_change_is_lost_and_of_a_key_that_several_changed_the_last_commit_counts(
    writers: list[list[list[Change]]], seed: int
) -> None:
    anyio.run(partial(story, writers, seed, strict=False))


@given(WRITERS, st.integers(0, 1 << 16))
def test_an_acknowledged_strict_writer_saw_every_earlier_commit(writers: list[list[list[Change]]], seed: int) -> None:
    anyio.run(partial(story, writers, seed, strict=True))


def test_eight_writers_each_with_a_key_of_its_own_all_get_through() -> None:
    async def all_of_them() -> None:
        nodes = ThreeNodes(7)
        _, token, _ = await nodes.visit(0, lambda session: session.update(large=LARGE), "")

        async def write(number: int) -> None:
            for count in range(5):
                status, _, _ = await nodes.visit(number, partial(put, key=f"key {number}", value=count), token)
                assert status == 200

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(write, number)
        _, _, seen = await nodes.visit(1, lambda session: dict(session), token)
        assert seen == {"large": LARGE, **{f"key {number}": 4 for number in range(8)}}

    anyio.run(all_of_them)


def test_the_stories_find_a_store_that_looks_at_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would prove nothing."""
    put = MemoryRecords.put

    def careless(self: MemoryRecords, record: Record, guard: Grant | None) -> Record:
        current = self.get(record.id)
        return put(self, replace(record, version=current.version if current else 0), guard)

    monkeypatch.setattr(MemoryRecords, "put", careless)
    found = 0
    for seed in range(20):
        try:
            anyio.run(partial(story, [[[("a", 1)]], [[("b", 1)]], [[("c", 1)]]], seed, strict=False))
        except AssertionError:
            found += 1
    assert found > 5
