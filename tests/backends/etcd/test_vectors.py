"""Vectors of every key and value in etcd: this release writes them byte for byte, and reads those of an earlier release."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from msgspec.structs import replace

from ha_session_mw import SessionLocked
from ha_session_mw._core.ordered.keys import LogHeartbeat, LogId, encode_beat, encode_floor, encode_log
from ha_session_mw._core.ordered.ready import BeatPut, EntryPut, FloorRaised
from ha_session_mw.abc import LockService, Record, SessionStore
from ha_session_mw.backends.etcd.api import Event, KeyValue
from ha_session_mw.backends.etcd.keys import Keys, Reading
from ha_session_mw.backends.etcd.locks import EtcdLocks
from ha_session_mw.backends.etcd.store import EtcdStore
from ha_session_mw.models import Cut, Deny, DenyKey, Entry
from ha_session_mw.testing import ManualClock
from ha_session_mw.testing.stillness import until_nothing_moves

from .fake_etcd import FakeEtcd, Lease

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "etcd.json").read_text("utf-8"))
KEYS = Keys("shop")


def vectors(kind: str) -> Sequence[Any]:
    return [pytest.param(vector, id=vector["story"]) for vector in VECTORS[kind]]


def stored(vector: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return the keys and values of a vector."""
    return {key.encode(): bytes.fromhex(value) for key, value in vector["stored"].items()}


def read(pair: tuple[bytes, bytes]) -> Any:
    """Return the log's item for a key and its value."""
    return KEYS.item(Event(KeyValue(*pair, create_revision=7, mod_revision=7)))


def written() -> Iterator[tuple[bytes, bytes]]:
    for kind in ("entries", "heartbeats", "log ids", "floors"):
        for vector in VECTORS[kind]:
            yield from stored(vector).items()


# The log.


@pytest.mark.parametrize("vector", vectors("entries"))
def test_an_entry(vector: Mapping[str, Any]) -> None:
    entry = msgspec.convert(vector["is"], Deny | Cut | DenyKey)
    assert KEYS.records([entry]) == stored(vector)
    assert [read(pair) for pair in stored(vector).items()] == [EntryPut(entry, created=True)]


@pytest.mark.parametrize("vector", vectors("heartbeats"))
def test_a_heartbeat(vector: Mapping[str, Any]) -> None:
    beat = msgspec.convert(vector["is"], LogHeartbeat)
    slot = f"{beat.heartbeat.member}/{beat.heartbeat.life}"
    assert {KEYS.slot(slot): encode_beat(beat)} == stored(vector)
    assert [read(pair) for pair in stored(vector).items()] == [BeatPut(slot, beat)]


@pytest.mark.parametrize("vector", vectors("floors"))
def test_a_floor(vector: Mapping[str, Any]) -> None:
    assert {KEYS.floor: encode_floor(vector["is"])} == stored(vector)
    assert [read(pair) for pair in stored(vector).items()] == [FloorRaised(vector["is"])]


@pytest.mark.parametrize("vector", vectors("log ids"))
def test_the_id_of_a_log(vector: Mapping[str, Any]) -> None:
    log = msgspec.convert(vector["is"], LogId)
    assert {KEYS.log: encode_log(log)} == stored(vector)
    reading = Reading(KEYS, lambda _: None)
    reading.take([KeyValue(*pair) for pair in stored(vector).items()])
    snapshot = reading.snapshot(7)
    assert snapshot is not None
    assert snapshot.log == log


def test_a_whole_log_is_loaded() -> None:
    read: list[tuple[str, Entry]] = []
    reading = Reading(KEYS, read.extend)
    reading.take([KeyValue(key, value, mod_revision=number) for number, (key, value) in enumerate(written())])
    snapshot = reading.snapshot(100)
    assert snapshot is not None
    entries: list[Entry] = [msgspec.convert(vector["is"], Deny | Cut | DenyKey) for vector in VECTORS["entries"]]
    assert [entry for _, entry in read] == entries
    assert [stored.beat for stored in snapshot.beats] == [msgspec.convert(vector["is"], LogHeartbeat) for vector in VECTORS["heartbeats"]]


# Records and locks.


@pytest.fixture
def etcd(clock: ManualClock) -> FakeEtcd:
    return FakeEtcd(clock)


@asynccontextmanager
async def running(service: SessionStore | LockService) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.run)
        await until_nothing_moves()
        yield
        tasks.cancel_scope.cancel()


def record_of(vector: Mapping[str, Any]) -> Record:
    id, content, until_ms, subject = vector["is"]
    return Record(id, bytes.fromhex(content), until_ms, subject)


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize("vector", vectors("records"))
async def test_a_record(vector: Mapping[str, Any], etcd: FakeEtcd, clock: ManualClock) -> None:
    record, nonce = record_of(vector), bytes.fromhex(vector["nonce"])
    store = EtcdStore(clock, etcd.gateway(clock), "shop", vector["kind"], lambda _: nonce)
    async with running(store):
        await store.put(record)
        assert {pair.key: pair.value for pair in etcd.keys.values()} == stored(vector)


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize("vector", vectors("records"))
async def test_a_record_of_an_earlier_release(vector: Mapping[str, Any], etcd: FakeEtcd, clock: ManualClock) -> None:
    store = EtcdStore(clock, etcd.gateway(clock), "shop", vector["kind"], bytes)
    etcd.keys = {key: KeyValue(key, value, 7, 7) for key, value in stored(vector).items()}
    expected = replace(record_of(vector), version=7)
    async with running(store):
        assert await store.get(expected.id) == expected
        if expected.subject is not None:
            assert await store.of_subject(expected.subject) == [expected]
        await store.delete(expected.id)
    assert etcd.keys == {}


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize("vector", vectors("locks"))
async def test_a_lock(vector: Mapping[str, Any], etcd: FakeEtcd, clock: ManualClock) -> None:
    locks = EtcdLocks(clock, etcd.gateway(clock), "shop")
    etcd.first_lease = vector["lease"]
    async with running(locks):
        await locks.acquire(vector["is"], within_s=0, lease_s=30)
        assert {pair.key: pair.value for pair in etcd.keys.values()} == stored(vector)


@pytest.mark.anyio
@pytest.mark.one_library
@pytest.mark.parametrize("vector", vectors("locks"))
async def test_a_lock_that_an_earlier_release_holds(vector: Mapping[str, Any], etcd: FakeEtcd, clock: ManualClock) -> None:
    locks = EtcdLocks(clock, etcd.gateway(clock), "shop")
    etcd.keys = {key: KeyValue(key, value, 7, 7) for key, value in stored(vector).items()}
    etcd.leases[vector["lease"]] = Lease(30, clock.boot_s() + 30, {*etcd.keys})
    etcd.revision, etcd.first_lease = 8, vector["lease"] + 1
    async with running(locks):
        with pytest.raises(SessionLocked):
            await locks.acquire(vector["is"], within_s=0, lease_s=30)
