"""The entries that a node has yet to write: none is dropped, each key is written once, and each caller hears of its own."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha_session_mw.backends.common.outbox import Outbox

KEYS = st.lists(st.binary(min_size=1, max_size=1), max_size=6)


def test_a_ticket_is_done_when_all_of_its_keys_are_written() -> None:
    box = Outbox()
    ticket = box.put({b"a": b"1", b"b": b"2"})
    assert box.batch(1) == {b"a": b"1"}
    box.written({b"a": b"1"}, 7)
    assert not ticket.done.is_set()
    box.written({b"b": b"2"}, 9)
    assert ticket.done.is_set()
    assert (ticket.position, ticket.rejected, len(box)) == (9, 0, 0)


def test_a_batch_that_was_not_written_stays_in_its_order() -> None:
    box = Outbox()
    box.put({b"a": b"1", b"b": b"2", b"c": b"3"})
    assert [*box.batch(2)] == [*box.batch(2)] == [b"a", b"b"]
    assert [*box.batch(100)] == [b"a", b"b", b"c"]


def test_a_request_for_a_key_in_flight_waits_for_that_write() -> None:
    box = Outbox()
    first = box.put({b"a": b"1"})
    second = box.put({b"a": b"1", b"b": b"2"})
    assert [*box.batch(10)] == [b"a", b"b"]
    box.written({b"a": b"1"}, 7)
    assert (first.done.is_set(), second.done.is_set()) == (True, False)


def test_only_the_callers_of_a_key_hear_that_it_was_rejected() -> None:
    box = Outbox()
    good, bad = box.put({b"a": b"1"}), box.put({b"a": b"1", b"x": b""})
    box.reject(b"x")
    box.written({b"a": b"1"}, 7)
    assert (good.rejected, bad.rejected) == (0, 1)
    assert good.done.is_set()
    assert bad.done.is_set()


def test_a_value_that_gives_way_is_replaced_by_another_one_even_while_it_is_written() -> None:
    box = Outbox(gives_way=lambda value: value == b"replaced")
    first = box.put({b"a": b"replaced"})
    in_flight = box.batch(10)
    second = box.put({b"a": b"log-out"})
    box.written(in_flight, 7)
    assert (first.done.is_set(), second.done.is_set(), box.batch(10)) == (False, False, {b"a": b"log-out"})
    box.put({b"a": b"replaced"})
    assert box.batch(10) == {b"a": b"log-out"}
    box.written(box.batch(10), 8)
    assert (first.done.is_set(), second.done.is_set(), len(box)) == (True, True, 0)


def test_a_ticket_without_entries_is_done() -> None:
    assert Outbox().put({}).done.is_set()


@given(puts=st.lists(KEYS, max_size=8), limit=st.integers(1, 4))
def test_every_ticket_is_done_at_last_and_no_key_is_written_twice(puts: list[list[bytes]], limit: int) -> None:
    box = Outbox()
    tickets = [box.put(dict.fromkeys(keys, b"")) for keys in puts]
    written: list[bytes] = []
    while batch := box.batch(limit):
        box.written(batch, len(written) + 1)
        written += batch
    assert all(ticket.done.is_set() and not ticket.left for ticket in tickets)
    assert sorted(written) == sorted({key for keys in puts for key in keys})


@pytest.mark.anyio
async def test_the_writer_is_woken_when_there_is_an_entry() -> None:
    box = Outbox()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(box.filled)
        await anyio.wait_all_tasks_blocked()
        box.put({b"a": b"1"})
    await box.filled()
